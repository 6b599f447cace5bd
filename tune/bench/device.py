"""The device of a bench: what it is, how fast it is reached, how full it has been."""

from __future__ import annotations

import gc
import importlib.metadata
import platform
from contextlib import suppress
from typing import Any

import torch

from prism_ssl.errors import GpuUnusable
from prism_ssl.model.capacity.cards import find_card
from prism_ssl.utils.gpu_check import gpu_problem, grow_segments
from prism_ssl.utils.machine import usable_cpus
from prism_ssl.utils.time import Stopwatch

OUT_OF_MEMORY = "out of memory"
"""How the ``problem`` of a row begins that the GPU's memory does not do for."""
_COPY_BYTES, _COPIES = 256 * 2**20, 8


def bench_device(kind: str) -> torch.device:
    """The device to measure, set up as for training; raises ``GpuUnusable`` where there is none."""
    grow_segments()
    torch.set_float32_matmul_precision("high")
    if kind == "cpu":
        return torch.device("cpu")
    problem = gpu_problem(compiles=True)
    if problem is not None:
        raise GpuUnusable(
            f"prism bench gpu needs a CUDA GPU and torch cannot use one ({problem}); run it on a GPU node, or try the "
            "command itself with --device cpu --quick"
        )
    return torch.device("cuda")


def settle(device: torch.device) -> None:
    """Wait until the device has done what is queued."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def forget(device: torch.device) -> None:
    """Free what a row used, compiled code included, so that the next one is measured alone."""
    torch._dynamo.reset()
    gc.collect()
    if device.type == "cuda":
        with suppress(torch.AcceleratorError):  # a broken GPU: every later row says so
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()


def problem_of(error: Exception) -> str:
    """A row's ``problem``: the error in a line."""
    kind = OUT_OF_MEMORY if isinstance(error, torch.OutOfMemoryError) else type(error).__name__
    return f"{kind}: {(str(error).strip().splitlines() or [''])[0]}"


def peak_bytes(device: torch.device) -> int:
    """The most memory of the GPU in use so far, CUDA's context included; 0 on a CPU."""
    if device.type != "cuda":
        return 0
    free, total = torch.cuda.mem_get_info()
    beside = total - free - torch.cuda.memory_reserved()
    return torch.cuda.max_memory_reserved() + max(0, beside)


def circumstances(device: torch.device) -> dict[str, Any]:
    """What the numbers belong to; no name of the host, for the file may leave it."""
    told: dict[str, Any] = {
        "card": None,
        "device": "cpu",
        "torch": torch.__version__,
        "python": platform.python_version(),
        "prism_ssl": importlib.metadata.version("prism-ssl"),
        "cpu_cores": usable_cpus(),
    }
    if device.type == "cuda":
        name, card = torch.cuda.get_device_name(device), find_card(torch.cuda.get_device_name(device))
        told |= {
            "card": card.name if card else None,
            "device": name,
            "memory_bytes": torch.cuda.get_device_properties(device).total_memory,
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "peak_flops": card.peak_flops if card else None,
            "peak_source": card.source if card else "this card is not in the table, so no MFU is told",
            "to_device_bytes_per_s": {kind: _copy_rate(device, kind == "pinned") for kind in ("pinned", "pageable")},
        }
    return told


def _copy_rate(device: torch.device, pinned: bool) -> float:
    host = torch.zeros(_COPY_BYTES, dtype=torch.uint8, pin_memory=pinned)
    target = torch.empty_like(host, device=device)
    target.copy_(host)
    settle(device)
    watch = Stopwatch()
    for _ in range(_COPIES):
        target.copy_(host, non_blocking=pinned)
    settle(device)
    return _COPIES * _COPY_BYTES / (watch.ms() / 1e3)
