"""A full GPU is tried again by the next job; a broken one ends the process that meets it."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from prism_ssl.data.scan import TRANSIENT_REASONS
from prism_ssl.embed.gpu_faults import EMBEDDING_FAILED, broken_gpu_ends_process, reason_of

PROGRAM = """
import torch
from prism_ssl.embed.gpu_faults import broken_gpu_ends_process
try:
    with broken_gpu_ends_process():
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
except Exception:
    print("the next scan is encoded")
"""


def test_where_memory_was_full_the_next_job_tries_again() -> None:
    assert {reason_of(torch.OutOfMemoryError("CUDA out of memory")), reason_of(MemoryError())} <= TRANSIENT_REASONS
    assert reason_of(ValueError("odd shape")) == EMBEDDING_FAILED
    assert EMBEDDING_FAILED not in TRANSIENT_REASONS


def test_a_broken_gpu_ends_the_process_and_no_other_error_does() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stdout) == (1, "")
    assert "the GPU failed, so this process ends: CUDA error: an illegal memory access" in done.stderr
    with pytest.raises(torch.OutOfMemoryError), broken_gpu_ends_process():
        raise torch.OutOfMemoryError("CUDA out of memory")
