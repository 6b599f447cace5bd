"""What a run asks of its Ray cluster is asked before anything waits for it."""

from __future__ import annotations

import pytest

from prism_ssl.config.defaults import apply_overrides, betty_baseline
from prism_ssl.config.schema import PrismConfig
from prism_ssl.errors import ConfigError
from prism_ssl.train.distributed.resources import require_resources, training_cpus, workers_on_a_node


def with_workers(num_workers: int) -> PrismConfig:
    return apply_overrides(betty_baseline(), {"train.num_workers": num_workers})


def test_every_training_worker_and_every_pool_actor_needs_a_cpu() -> None:
    assert training_cpus(with_workers(4)) == 8 + 4
    require_resources(with_workers(4), {"CPU": 12.0, "GPU": 4.0})
    with pytest.raises(ConfigError, match=r"data.workers is 8 and train.num_workers is 4, .* has 11 CPU.* \(12\)"):
        require_resources(with_workers(4), {"CPU": 11.0, "GPU": 4.0})


def test_where_there_are_gpus_every_training_worker_needs_one() -> None:
    with pytest.raises(ConfigError, match=r"train.num_workers is 4 and the Ray cluster has 3 GPU\(s\)"):
        require_resources(with_workers(4), {"CPU": 64.0, "GPU": 3.0})
    require_resources(with_workers(4), {"CPU": 64.0})  # on a laptop's CPU, slowly


@pytest.mark.parametrize(
    ("gpus", "workers"), [([8.0], 4), ([1.0, 1.0, 1.0, 1.0], 1), ([2.0, 2.0], 2), ([0.0], 4), ([], 4)]
)
def test_a_node_has_as_many_training_workers_as_gpus(gpus: list[float], workers: int) -> None:
    assert workers_on_a_node(with_workers(4), gpus) == workers
