"""Autocast for a precision: of training steps, and of evaluation and embedding."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import torch

from prism_ssl.config.schema import Precision

IN_BF16_ON_CPU = (
    "training steps are computed in bfloat16, for which this CPU has matrix units, and evaluation in float32; "
    "train.precision fp32 turns that off"
)
_CPU_FLAGS = Path("/proc/cpuinfo")
"""Names what the processor has and the kernel lets programs use."""


def inference_autocast(precision: Precision, device: torch.device) -> AbstractContextManager[Any]:
    """For evaluation and embedding: bf16 autocast on CUDA when asked for; float32 everywhere else."""
    if precision == "bf16" and device.type == "cuda":
        return torch.autocast("cuda", torch.bfloat16)
    return nullcontext()


def training_autocast(precision: Precision, device: torch.device) -> AbstractContextManager[Any]:
    """For training steps: as ``inference_autocast``, and bf16 also where ``trains_in_bf16_on_cpu``."""
    if trains_in_bf16_on_cpu(precision, device):
        return torch.autocast("cpu", torch.bfloat16)
    return inference_autocast(precision, device)


def trains_in_bf16_on_cpu(precision: Precision, device: torch.device) -> bool:
    """Whether training steps are computed in bfloat16 although there is no GPU.

    They are when it is asked for, on a CPU with matrix units for bfloat16 (Intel AMX). With vector instructions alone
    bfloat16 was hardly faster than float32 (AVX512-BF16), or half as fast (AVX-512).
    """
    return precision == "bf16" and device.type == "cpu" and _has_flag("amx_bf16", _CPU_FLAGS)


@cache
def _has_flag(flag: str, file: Path) -> bool:
    try:
        return flag in file.read_text().split()
    except OSError:  # not Linux
        return False
