"""Range checks for the settings dataclasses."""

from __future__ import annotations

import math

from prism_ssl.errors import ConfigError


def require(ok: bool, key: str, found: object, needed: str) -> None:
    """Raise ``ConfigError`` naming the key, what was found and what was needed."""
    if not ok:
        raise ConfigError(f"{key} is {found!r}; needed: {needed}")


def positive(section: str, settings: object, *names: str) -> None:
    """Check that each of these settings is a finite number above 0."""
    for name in names:
        value = getattr(settings, name)
        require(0 < value < math.inf, f"{section}.{name}", value, "a value above 0")


def not_negative(section: str, settings: object, *names: str) -> None:
    """Check that each of these settings is a finite number, 0 or more."""
    for name in names:
        value = getattr(settings, name)
        require(0 <= value < math.inf, f"{section}.{name}", value, "0 or more")
