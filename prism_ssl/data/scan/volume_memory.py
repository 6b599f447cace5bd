"""Memory for decoded volumes: what a scan leaves behind when it goes is used for the next one.

Memory that is new to a process is cleared by the kernel first; on a virtual machine that hands its idle memory back to
the host, getting a megabyte takes as long as inflating one.
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
    """Hands out memory, and has it back as soon as no array looks at it any more. Safe for use from several threads.

    Args:
        keep: blocks that wait for their next use; what comes back beyond them goes to the system, 0: all of it.
    """

    def __init__(self, keep: int = 0) -> None:
        self._free: deque[mmap.mmap] = deque(maxlen=keep)

    def take(self, size: int) -> npt.NDArray[np.uint8]:
        """``size`` bytes whose content is arbitrary; views of the array keep them from being used again.

        Raises:
            OSError: the system has no memory of that size.
        """
        block = self._block(-(-size // _HUGE_PAGE_BYTES) * _HUGE_PAGE_BYTES)
        memory = np.frombuffer(block, dtype=np.uint8, count=size)
        weakref.finalize(memory, self._free.append, block).atexit = False
        return memory

    def _block(self, size: int) -> mmap.mmap:
        with suppress(IndexError, BufferError):  # none is free; the array of the one that is has not quite gone
            block = self._free.pop()
            if len(block) != size:
                block.resize(size)
            return block
        return _new_block(size)


def _new_block(size: int) -> mmap.mmap:
    """Memory of its own, in huge pages where the kernel has them (whole ones: only then it aligns to them)."""
    # not np.empty: malloc keeps what it was given back, 11 % of a pool's memory after 20,000 visits
    block = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel built without them
            block.madvise(mmap.MADV_HUGEPAGE)
    return block
