"""Check that the Ray cluster has the CPUs and GPUs that a run needs, before anything waits for them (pure)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from prism_ssl.config.schema import PrismConfig
from prism_ssl.data.pool import require_gpu
from prism_ssl.errors import ConfigError


def training_cpus(config: PrismConfig) -> int:
    """Ray CPUs that a run occupies: one for every pool actor and every training worker."""
    return config.data.workers + config.train.num_workers


def require_resources(config: PrismConfig, cluster: Mapping[str, float]) -> None:
    """Raises ``ConfigError`` when the cluster has too few CPUs, or some GPUs but too few."""
    workers, gpus, cpus = config.train.num_workers, cluster.get("GPU", 0.0), cluster.get("CPU", 0.0)
    require_gpu(config, gpus)
    if 0 < gpus < workers:
        raise ConfigError(
            f"train.num_workers is {workers} and the Ray cluster has {gpus:.0f} GPU(s); needed: one for every training "
            "worker; ask for more GPUs, or lower train.num_workers"
        )
    if cpus < training_cpus(config):
        raise ConfigError(
            f"data.workers is {config.data.workers} and train.num_workers is {workers}, and the Ray cluster has "
            f"{cpus:.0f} CPU(s); needed: one for each of them ({training_cpus(config)}); ask for more CPUs "
            "(--cpus-per-task), or lower data.workers"
        )


def workers_on_a_node(config: PrismConfig, gpus_of_nodes: Sequence[float]) -> int:
    """Largest number of training workers on one node: its number of GPUs; without GPUs, all workers."""
    return min(config.train.num_workers, int(max(gpus_of_nodes, default=0)) or config.train.num_workers)
