"""Ids that tell patients, studies and series apart without naming them: HMAC-SHA256 with a salt of the user's own."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from pathlib import Path

from prism_ssl.errors import ConfigError
from prism_ssl.utils.fs import write_atomic

SALT_FILE = "salt"
_SALT_BYTES = 32
_ID_DIGITS = 16


class Pseudonyms:
    """Ids for one salt. Equal sources give equal ids; without the salt nobody can try out record numbers."""

    def __init__(self, salt: bytes) -> None:
        self._salt = salt

    def of(self, letter: str, *parts: str) -> str:
        """``letter`` and 16 hex digits; the letter says of what, and no reader takes such an id for a number."""
        told = "".join(f"{len(part)}:{part}" for part in (letter, *parts)).encode("utf-8", "surrogatepass")
        return letter + hmac.new(self._salt, told, hashlib.sha256).hexdigest()[:_ID_DIGITS]


def pseudonyms_in(folder: Path, begun: bool) -> Pseudonyms:
    """The ids of the salt in ``folder`` (0700); it is made (0600) where there is none.

    Args:
        begun: whether ids have been given with this salt already.

    Raises:
        ConfigError: the salt is gone though ids have been given, or is damaged.
    """
    file = folder / SALT_FILE
    if not file.exists():
        if begun:
            raise ConfigError(
                f"the salt {file} is gone, and the archive's ids were made with it; bring it back, or name the "
                "--private of the first import"
            )
        write_atomic(file, f"{secrets.token_hex(_SALT_BYTES)}\n".encode())
    file.chmod(0o600)
    try:
        salt = bytes.fromhex(file.read_text(encoding="ascii").strip())
    except ValueError:
        salt = b""
    if len(salt) < _SALT_BYTES:
        raise ConfigError(f"{file} holds no salt of {_SALT_BYTES} bytes in hex; bring back the one that was made there")
    return Pseudonyms(salt)
