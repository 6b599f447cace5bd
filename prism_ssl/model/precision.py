"""Autocast for a precision, the same in training and evaluation."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from prism_ssl.config.schema import Precision


def autocast_for(precision: Precision, device: torch.device) -> AbstractContextManager[Any]:
    """bf16 autocast on CUDA when asked for; float32 everywhere else."""
    if precision == "bf16" and device.type == "cuda":
        return torch.autocast("cuda", torch.bfloat16)
    return nullcontext()
