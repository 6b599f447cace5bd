"""Refuse a .csv that would be misread: other encodings, other line ends, stray quotes."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NoReturn

import numpy as np

from prism_ssl.errors import CatalogError

_BLOCK_BYTES = 2**22
_OTHER_ENCODINGS = (b"\xff\xfe", b"\xfe\xff")
_UTF8_MARK = b"\xef\xbb\xbf"  # Excel, and SQL Server, begin a file in UTF-8 with it
_QUOTE, _BEFORE, _BEHIND = ord('"'), np.frombuffer(b',"\r\n', np.uint8), np.frombuffer(b',"\r\n', np.uint8)


def refuse_other_texts(path: Path) -> None:
    """Search a .csv or .csv.gz once, in pieces, for what would make rows vanish; a damaged file is left to its reader.

    A quote is valid where it opens a whole field, closes it, or is doubled within it. Elsewhere (an inch mark) readers
    differ, and some read all lines up to the next quote as one field.

    Raises:
        CatalogError: it is in UTF-16, has line ends of CR alone, or a misplaced quote (the text names its line).
    """
    quotes = lines = open_line = 0
    before = b"\n"
    for number, block in enumerate(_blocks(path)):
        if number == 0:
            _refuse_encoding(path, block)
            block = block.removeprefix(_UTF8_MARK)
        # The bytes before and after a quote decide if it is valid: the last byte waits for the next block.
        data = np.frombuffer(before + block, np.uint8)
        places = np.flatnonzero(data[1:-1] == _QUOTE) + 1
        opens = (quotes + np.arange(len(places))) % 2 == 0
        fits = np.where(opens, np.isin(data[places - 1], _BEFORE), np.isin(data[places + 1], _BEHIND))
        if not fits.all():
            _refuse_quote(path, 1 + lines + _line_ends(data[1 : places[int(np.argmin(fits))]]))
        quotes += len(places)
        if len(places) and quotes % 2:
            open_line = 1 + lines + _line_ends(data[1 : places[-1]])
        lines += _line_ends(data[1:-1])
        before = (before + block)[-2:]
    if quotes % 2:
        _refuse_quote(path, open_line)


def _line_ends(data: np.ndarray) -> int:
    return int(np.count_nonzero(data == ord("\n")))


def _blocks(path: Path) -> Iterator[bytes]:
    """The text, and a line end after its last byte."""
    with path.open("rb") as file:
        try:
            if path.name.lower().endswith(".gz"):
                yield from _inflated(file)
            else:
                yield from iter(lambda: file.read(_BLOCK_BYTES), b"")
        except (OSError, zlib.error):
            return
    yield b"\n"


def _inflated(file: IO[bytes]) -> Iterator[bytes]:
    """The data of every member of a gzip stream, in large pieces, which gzip.open does not read before Python 3.12."""
    inflate = zlib.decompressobj(31)
    while packed := file.read(_BLOCK_BYTES):
        while packed:
            if block := inflate.decompress(packed, _BLOCK_BYTES):
                yield block
            packed = inflate.unconsumed_tail
            if inflate.eof:
                packed, inflate = inflate.unused_data, zlib.decompressobj(31)


def _refuse_encoding(path: Path, block: bytes) -> None:
    if block.startswith(_OTHER_ENCODINGS) or b"\0" in block[:4096]:
        what = "is not in UTF-8 (UTF-16, which Excel calls Unicode text?)"
    elif b"\r" in block and b"\n" not in block:
        what = "has line ends of an old Macintosh (CR)"
    else:
        return
    raise CatalogError(
        f"catalogue {path} {what}; needed: a header row, fields separated by commas, UTF-8, lines that end in LF or "
        "CR LF, or parquet; export it again"
    )


def _refuse_quote(path: Path, line: int) -> NoReturn:
    raise CatalogError(
        f"catalogue {path} cannot be read: line {line} has a quote out of its place (an inch mark?), which would hide "
        "all rows up to the next one; needed: a field that holds a quote stands in quotes and doubles it "
        '("5"" THICK"); '
        "export the table again, or as parquet"
    )
