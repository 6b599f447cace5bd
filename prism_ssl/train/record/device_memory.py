"""Memory that a training worker uses, in bytes."""

from __future__ import annotations

import psutil
import torch


def device_memory() -> dict[str, float]:
    """Memory of this process and, on CUDA, of the GPU, in bytes."""
    memory = {"trainer_rss_bytes": float(psutil.Process().memory_info().rss)}
    if torch.cuda.is_available():
        memory["gpu_allocated_bytes"] = float(torch.cuda.memory_allocated())
        memory["gpu_peak_allocated_bytes"] = float(torch.cuda.max_memory_allocated())
        memory["gpu_reserved_bytes"] = float(torch.cuda.memory_reserved())
    return memory
