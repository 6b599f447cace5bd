"""Fail-safe stdout and stderr: a failed write loses output but never ends the command."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO, cast

_LOST = (OSError, ValueError)
"""A full disk, a reader that is gone, a device error; ``ValueError``: the stream was closed."""


@contextmanager
def failsafe_output() -> Iterator[None]:
    """Inside the block, a failed write to stdout or stderr is dropped; so is a failed flush when Python exits.

    Streams that were closed when the command began are opened on /dev/null, so that no other file gets their numbers.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number: this one
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (cast(TextIO, _Unfailing(stream)) for stream in before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
        for stream in before:
            _empty(stream)


class _Unfailing:
    """A text stream around another one, or around none: failed writes are dropped."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream: Any = stream if stream is not None else open(os.devnull, "w")  # noqa: PTH123, SIM115

    def write(self, text: str) -> int:
        """Write as much of ``text`` as the stream takes; characters that it cannot encode are replaced."""
        try:
            self._stream.write(text)
        except UnicodeEncodeError as error:
            with suppress(*_LOST):
                self._stream.write(text.encode(error.encoding, "replace").decode(error.encoding))
        except _LOST:
            pass
        return len(text)

    def flush(self) -> None:
        """Flush the stream; a failure is dropped."""
        with suppress(*_LOST):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _empty(stream: TextIO | None) -> None:
    """Empty the stream, because a failed flush at Python's exit would set the exit code to 120."""
    if stream is None:
        return
    try:
        stream.flush()
    except _LOST:
        with suppress(*_LOST):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            stream.flush()
