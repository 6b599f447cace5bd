"""Standard output and error that end nothing: what a command prints may be lost, what it does may not."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO, cast

_LOST = (OSError, ValueError)
"""A full disk, a reader that is gone, a device error; ``ValueError``: the stream was closed."""


@contextmanager
def output_that_ends_nothing() -> Iterator[None]:
    """While the block lasts, a write to stdout or stderr that fails is dropped; so is the flush when Python exits.

    Streams that were closed when the command began lead nowhere, and their numbers are taken, so that no other file
    gets them.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # which gets the lowest free number: this one
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (cast(TextIO, _Unfailing(stream)) for stream in before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
        for stream in before:
            _empty(stream)


class _Unfailing:
    """A text stream around another one, or around none: whatever fails in writing is dropped."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream: Any = stream if stream is not None else open(os.devnull, "w")  # noqa: PTH123, SIM115

    def write(self, text: str) -> int:
        """As much of ``text`` as the stream takes, in characters that it knows."""
        try:
            self._stream.write(text)
        except UnicodeEncodeError as error:
            with suppress(*_LOST):
                self._stream.write(text.encode(error.encoding, "replace").decode(error.encoding))
        except _LOST:
            pass
        return len(text)

    def flush(self) -> None:
        """Write what is held back, if that can be done."""
        with suppress(*_LOST):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _empty(stream: TextIO | None) -> None:
    """Leave nothing in the stream for Python's own flush at exit, whose failure would be the exit code (120)."""
    if stream is None:
        return
    try:
        stream.flush()
    except _LOST:
        with suppress(*_LOST):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            stream.flush()
