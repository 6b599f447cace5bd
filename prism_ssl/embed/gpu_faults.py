"""Errors of the GPU while views are encoded: a full GPU is tried again, a broken one ends the process."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from prism_ssl.data.scan import RejectReason

EMBEDDING_FAILED = "embedding_failed"
"""Reason for a readable scan whose embedding is not finite or could not be computed."""


@contextmanager
def broken_gpu_ends_process() -> Iterator[None]:
    """Inside the block, an error of the device itself (Xid, ECC, illegal access) ends the process with 1.

    After such an error every later call of the process fails too, so that it would reject all scans that follow. Ray
    starts another process.
    """
    try:
        yield
    except torch.AcceleratorError as error:
        print(f"the GPU failed, so this process ends: {error}", file=sys.stderr, flush=True)  # noqa: T201
        os._exit(1)


def reason_of(error: BaseException) -> str:
    """Why a scan has no embedding after ``error``; where the GPU or the memory was full, the next job tries again."""
    full = isinstance(error, (torch.OutOfMemoryError, MemoryError))
    return RejectReason.CHECK_CRASHED if full else EMBEDDING_FAILED
