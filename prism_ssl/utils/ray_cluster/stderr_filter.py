"""Lines that a foreign library's native code writes to stderr, left out by their words."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def stderr_without(words: str) -> Iterator[None]:
    """What is written to stderr in the block comes when it ends, but for the lines with ``words`` in them."""
    sys.stderr.flush()
    real = os.dup(2)
    with tempfile.TemporaryFile() as written:
        os.dup2(written.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(real, 2)
            os.close(real)
            written.seek(0)
            for line in written:
                if words.encode() not in line:
                    os.write(2, line)
