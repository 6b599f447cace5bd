"""Filter lines that a library's native code writes to stderr, by a phrase in them."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def stderr_without(words: str) -> Iterator[None]:
    """Hold back stderr until the block ends, then write it without the lines that contain ``words``."""
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
