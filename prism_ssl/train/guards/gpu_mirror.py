"""Check that the scans' volumes fit on the GPU beside the model, where views are cut out there."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from prism_ssl.config.schema import PrismConfig
from prism_ssl.contracts import PreparedScan
from prism_ssl.data.pool import check_mirror_fits, require_gpu
from prism_ssl.model.capacity.memory import gpu_memory


def require_mirror_fits(config: PrismConfig, shards: Sequence[Sequence[PreparedScan]], device: torch.device) -> None:
    """Does nothing unless ``data.extract_on`` is cuda.

    Raises:
        PrismError: there is no GPU, or its memory is too small.
    """
    if config.data.extract_on == "cuda":
        require_gpu(config, torch.cuda.device_count())
        check_mirror_fits(config, shards, torch.cuda.mem_get_info(device)[1], gpu_memory(config).total)
