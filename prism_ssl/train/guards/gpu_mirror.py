"""Check that the scans' volumes fit on the GPU beside the model, where views are cut out there."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from prism_ssl.contracts import PreparedScan
from prism_ssl.data.pool import check_mirror_fits, require_gpu
from prism_ssl.model.capacity.memory import gpu_memory
from prism_ssl.train.run.loop_config import LoopConfig


def require_mirror_fits(order: LoopConfig, shards: Sequence[Sequence[PreparedScan]], device: torch.device) -> None:
    """Does nothing unless ``data.extract_on`` is cuda.

    Raises:
        PrismError: there is no GPU, or its memory is too small.
    """
    if order.config.data.extract_on == "cuda" and not order.extract_without_gpu:
        require_gpu(order.config, torch.cuda.device_count())
        check_mirror_fits(order.config, shards, torch.cuda.mem_get_info(device)[1], gpu_memory(order.config).total)
