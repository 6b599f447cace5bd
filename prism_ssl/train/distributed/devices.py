"""Device, threads and seed of a training worker."""

from __future__ import annotations

import os

import ray.train.torch
import torch
from ray.train.v2._internal.execution.callback import WorkerCallback

from prism_ssl.config.schema import PrismConfig
from prism_ssl.train.distributed.ranks import Ranks
from prism_ssl.utils.gpu_check import grow_segments
from prism_ssl.utils.machine import usable_cpus


class GrowingSegments(WorkerCallback):
    """Ray Train hook: ``grow_segments``. Ray starts CUDA before the loop begins, so the loop would be too late."""

    def after_init_train_context(self) -> None:
        """In the worker, before CUDA starts."""
        grow_segments()


def prepare_torch(config: PrismConfig, ranks: Ranks) -> torch.device:
    """The worker's device; also sets its share of the machine's cores, and the run's seed, equal for all workers."""
    # Ray gives its workers one OpenMP thread each; on a CPU the model may use the cores that the actors leave free.
    beside_me = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # set by Ray Train
    left_over = (usable_cpus() - config.data.workers * beside_me // ranks.size) // beside_me
    torch.set_num_threads(config.train.torch_threads or max(1, left_over))
    torch.manual_seed(config.train.seed)
    torch.set_float32_matmul_precision("high")
    if not torch.cuda.is_available():
        return torch.device("cpu")
    if ranks.size == 1:
        return torch.device("cuda")
    device = ray.train.torch.get_device()  # the workers of a node see each other's GPUs
    torch.cuda.set_device(device)
    return device
