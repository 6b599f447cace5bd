"""Between two rows of the history the host never waits for the device: no step reads a number from it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from prism_ssl.config.defaults import apply_overrides, phantom_cpu
from prism_ssl.data.collate import Collator
from prism_ssl.train.guards.nonfinite import NonFiniteGuard
from prism_ssl.train.learner import Learner
from prism_ssl.train.record.diagnostics import Diagnostics
from tests.support.host_syncs import HostSyncs
from tests.unit.data.test_collate import N, random_chunk

CPU = torch.device("cpu")
PLACE = {"loss.supcon_positives": "place", "view.same_place_share": 0.5}
VARIANTS: dict[str, dict[str, Any]] = {
    "regression": {},
    "classification": {"model.objective": "classification"},
    "by place": PLACE,
    "SimCLR": {"loss.simclr_baseline": True},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_step_and_its_record_read_nothing_from_the_device(variant: str, tmp_path: Path) -> None:
    config = apply_overrides(
        phantom_cpu(), {"loss.supcon_warmup_steps": 0, "loss.supcon_ramp_steps": 0, **VARIANTS[variant]}
    )
    learner, collate = Learner(config, CPU), Collator(CPU, batch_size=4, n_patches=N)
    diagnostics = Diagnostics(config.model.objective, learner.network.heads.by_loss())
    guard = NonFiniteGuard(tmp_path, seed=0, limit=3, lag=4, fetch=lambda flag: flag.item)
    learner.step(collate([random_chunk(0, 4)]), 0)  # the optimiser makes its state
    with HostSyncs() as syncs:
        for step in (1, 2):
            report = learner.step(collate([random_chunk(step, 4)]), step)
            diagnostics.add(report)
            guard.watch(step, learner.last_update_finite, [])
    assert syncs.found == []


@pytest.mark.parametrize(
    "act",
    [
        lambda x: float(x.sum()),
        lambda x: bool(x.sum() > 0),
        lambda x: x[x > 1],
        lambda x: torch.tensor(2.0, device=CPU),
    ],
    ids=["a number", "an if", "an index of bools", "a number made on the host"],
)
def test_what_would_wait_is_seen(act: Callable[[torch.Tensor], Any]) -> None:
    x = torch.arange(3.0)
    with HostSyncs() as syncs:
        act(x + 1.0)
    assert len(syncs.found) >= 1
