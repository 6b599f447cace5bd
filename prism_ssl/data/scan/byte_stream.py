"""Sequential bytes of a file, decompressed if its content is a gzip stream."""

from __future__ import annotations

import shutil
from io import SEEK_END, RawIOBase
from typing import IO, Any

from isal import igzip, isal_zlib

from prism_ssl.data.scan.reject_reasons import RejectReason
from prism_ssl.errors import ScanRejected

GZIP_MAGIC = b"\x1f\x8b"

_zlib: Any = isal_zlib
_igzip: Any = igzip
# isal publishes types for a part of what it offers
_GZIP_WBITS = 31
# 1 MiB: the intermediate copy stays in the cache; 2 % slower than inflating into place, which has no public call.
_CHUNK_BYTES = 2**20
_PACKED_BYTES = 2**18  # 2**16 takes 3 % longer; the unused rest of it is copied for each chunk


class FileStream:
    """Reads an unbuffered file from its beginning; ``gz``: whether it is decompressed.

    The members of a gzip stream are joined, and the checksum of each is verified at its end. Bytes after the last
    member that begin no other member are ignored, as gzip does ("trailing garbage ignored").

    Raises:
        ScanRejected: from ``fill`` and ``skip``, a gzip stream that is damaged or ends early.
        OSError: the file cannot be read.
    """

    def __init__(self, file: RawIOBase) -> None:
        self._file = file
        self.gz = file.read(len(GZIP_MAGIC)) == GZIP_MAGIC
        self.file_bytes = file.seek(0, SEEK_END)
        file.seek(0)
        self._packed = b""  # read, and not yet inflated
        self._inflater = _zlib.decompressobj(wbits=_GZIP_WBITS) if self.gz else None
        self.foreign_tail = False
        """Whether bytes that begin no other member follow the last one."""

    def fill(self, buffer: memoryview) -> int:
        """Put the next bytes into ``buffer``; returns how many. Fewer than its length: the stream has ended intact."""
        filled = 0
        while filled < len(buffer):
            part = buffer[filled : filled + _CHUNK_BYTES]
            count = self._inflate(part) if self.gz else self._file.readinto(part) or 0
            if not count:
                break
            filled += count
        return filled

    def skip(self, size: int) -> int:
        """Skip the next ``size`` bytes; returns how many. Fewer: the stream has ended intact."""
        passed, buffer = 0, memoryview(bytearray(min(size, _CHUNK_BYTES)))
        while passed < size:
            count = self.fill(buffer[: size - passed])
            if not count:
                break
            passed += count
        return passed

    def _inflate(self, part: memoryview) -> int:
        """Bytes put into ``part``; 0 when no member is left."""
        while self._inflater is not None:
            more = bool(self._packed) or self._read()
            try:
                data = self._inflater.decompress(self._packed, len(part))
            except _zlib.IsalError as error:
                detail = f"the gzip stream is damaged ({error}); copy the file again"
                raise ScanRejected(RejectReason.CORRUPT_GZIP, detail) from error
            self._packed = self._inflater.unconsumed_tail
            if self._inflater.eof:
                self._packed = self._inflater.unused_data
                self._inflater = _zlib.decompressobj(wbits=_GZIP_WBITS) if self._another_member() else None
                self.foreign_tail = self._inflater is None and bool(self._packed)
            elif not data and not more:  # called once more, because it may have held bytes back
                raise ScanRejected(RejectReason.TRUNCATED_GZIP, "the gzip stream ends early; copy the file again")
            if data:
                part[: len(data)] = data
                return len(data)
        return 0

    def _another_member(self) -> bool:
        """Whether another member follows the one that has ended; zeros in between are padding."""
        self._packed = self._packed.lstrip(b"\0")
        while len(self._packed) < len(GZIP_MAGIC) and self._read():
            self._packed = self._packed.lstrip(b"\0")
        return self._packed.startswith(GZIP_MAGIC)

    def _read(self) -> bool:
        chunk = self._file.read(_PACKED_BYTES) or b""
        self._packed += chunk
        return bool(chunk)


def gzip_file(source: IO[bytes], target: IO[bytes]) -> None:
    """Write ``source`` to ``target`` as a gzip stream that names no file and no time: equal data give equal bytes."""
    with _igzip.IGzipFile(filename="", mode="wb", fileobj=target, mtime=0) as packed:
        shutil.copyfileobj(source, packed, _CHUNK_BYTES)
