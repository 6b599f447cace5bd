"""Several training workers without Ray: processes of one gloo group that call the same function."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn

from prism_ssl.train.distributed.ranks import Ranks

TIMEOUT_S = 60.0


def ask_ranks(size: int, question: Callable[[Ranks], Any], folder: Path) -> list[Any]:
    """``question`` answered by each of ``size`` workers; answers are tensors and plain values."""
    spawn(_answer, args=(size, question, str(folder)), nprocs=size)
    return [torch.load(folder / f"answer-{rank}", weights_only=True) for rank in range(size)]


def _answer(rank: int, size: int, question: Callable[[Ranks], Any], folder: str) -> None:
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=size)
    torch.save(question(Ranks.here(TIMEOUT_S)), Path(folder) / f"answer-{rank}")
    if dist.is_initialized():
        dist.destroy_process_group()
