"""Reusable memory for decoded volumes: a block that one scan frees serves the next one.

The kernel clears memory that is new to a process; on a virtual machine that returns its idle memory to the host,
getting a megabyte takes as long as decompressing one.
"""

from __future__ import annotations

import mmap
import weakref
from collections import deque
from contextlib import suppress

import numpy as np
import numpy.typing as npt

_HUGE_PAGE_BYTES = 2 * 2**20


class VolumeMemory:
    """Hands out memory, and takes it back as soon as no array uses it any more. Safe for use from several threads.

    Args:
        keep: at most this many free blocks are kept for reuse; others go back to the system.
    """

    def __init__(self, keep: int = 0) -> None:
        self._free: deque[mmap.mmap] = deque(maxlen=keep)

    def take(self, size: int) -> npt.NDArray[np.uint8]:
        """``size`` uninitialised bytes; they are not reused while a view of the array exists.

        Raises:
            OSError: the system has no memory of that size.
        """
        block = self._block(-(-size // _HUGE_PAGE_BYTES) * _HUGE_PAGE_BYTES)
        memory = np.frombuffer(block, dtype=np.uint8, count=size)
        weakref.finalize(memory, self._free.append, block).atexit = False
        return memory

    def _block(self, size: int) -> mmap.mmap:
        with suppress(IndexError, BufferError):  # none is free; or its last array is not quite gone
            block = self._free.pop()
            if len(block) != size:
                block.resize(size)
            return block
        return _new_block(size)


def _new_block(size: int) -> mmap.mmap:
    """A new block, in huge pages where the kernel has them (whole ones: only then it aligns to them)."""
    # not np.empty: malloc keeps freed memory, 11 % of a pool's memory after 20,000 visits
    block = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel built without them
            block.madvise(mmap.MADV_HUGEPAGE)
    return block
