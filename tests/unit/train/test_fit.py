"""How a fit ends whose Ray processes are gone: named, and as interrupted where that was asked for."""

from __future__ import annotations

import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray.exceptions import ActorDiedError
from ray.train.v2.torch.torch_trainer import TorchTrainer

from prism_ssl.config.defaults import phantom_cpu
from prism_ssl.train.distributed.devices import GrowingSegments
from prism_ssl.train.fit import fit


@pytest.mark.parametrize("asked", [False, True])
def test_a_ray_whose_processes_are_gone_is_an_end_like_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: bool
) -> None:
    gone = ActorDiedError()

    def dies(_: object) -> None:
        if asked:
            signal.signal(signal.SIGINT, lambda *_: None)  # Ray's answer, where nobody is left to be asked
            signal.raise_signal(signal.SIGTERM)
        raise gone

    monkeypatch.setattr(ray, "cluster_resources", dict)
    given: dict[str, Any] = {}
    monkeypatch.setattr(TorchTrainer, "__init__", lambda *_, **arguments: given.update(arguments))
    monkeypatch.setattr(TorchTrainer, "fit", dies)
    order: Any = SimpleNamespace(config=phantom_cpu())
    ended = fit(order, tmp_path)
    assert isinstance(ended, KeyboardInterrupt) if asked else ended is gone
    assert GrowingSegments in map(type, given["run_config"].callbacks)
