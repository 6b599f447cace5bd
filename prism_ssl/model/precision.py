"""Autocast for a precision: of training steps, and of everything else."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

import torch

from prism_ssl.config.schema import Precision


def autocast_for(precision: Precision, device: torch.device) -> AbstractContextManager[Any]:
    """For evaluation and embedding: bf16 autocast on CUDA when asked for; float32 everywhere else."""
    if precision == "bf16" and device.type == "cuda":
        return torch.autocast("cuda", torch.bfloat16)
    return nullcontext()


def training_autocast(precision: Precision, device: torch.device) -> AbstractContextManager[Any]:
    """For training steps: as ``autocast_for``, and bf16 also on a CPU that multiplies matrices in it."""
    if precision == "bf16" and device.type == "cpu" and cpu_multiplies_bf16():
        return torch.autocast("cpu", torch.bfloat16)
    return autocast_for(precision, device)


@cache
def cpu_multiplies_bf16() -> bool:
    """Whether the CPU has units for matrices of bfloat16 (AMX, Intel Xeon since 2023).

    There a step of the recipe ``study`` takes about 0.6 of the time. With vector instructions alone bfloat16 was hardly
    faster than float32 (AVX512-BF16) or half as fast (AVX-512).
    """
    return bool(torch.cpu.get_capabilities().get("amx_bf16", False))
