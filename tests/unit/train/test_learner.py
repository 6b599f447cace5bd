"""One step of training, and the step that must leave no trace."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import jaxtyping
import pytest
import torch

from prism_ssl.config.defaults import apply_overrides, phantom_cpu
from prism_ssl.contracts import PrismBatch
from prism_ssl.train.learner import Learner
from tests.support.model_batches import random_batch
from tests.unit.train.test_checkpoint import assert_same

CPU = torch.device("cpu")


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Two threads that share two busy cores with others wait for each other: 10 ms become 2 s."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def _learner(**overrides: Any) -> Learner:
    torch.manual_seed(0)
    keys = {key.replace("__", "."): value for key, value in overrides.items()}
    return Learner(apply_overrides(phantom_cpu(), keys), CPU)


def _nan_pixel() -> PrismBatch:
    batch = random_batch(seed=5)
    batch.patches_b[1, 0, 3, 3, 0] = math.nan
    return batch


def _infinite_target() -> PrismBatch:
    return replace(random_batch(seed=5), center_distance_mm=torch.full((6,), math.inf))


BAD = pytest.mark.parametrize("bad", [_nan_pixel(), _infinite_target()], ids=["nan pixel", "infinite target"])
OPTIMIZERS = pytest.mark.parametrize("optimizer", [{}, {"train__muon_lr": 3e-3}], ids=["AdamW", "AdamW and Muon"])


@BAD
@OPTIMIZERS
def test_a_batch_that_is_not_finite_changes_no_weight_no_moment_and_no_count(
    bad: PrismBatch, optimizer: dict[str, Any]
) -> None:
    learner = _learner(**optimizer)
    learner.step(random_batch(seed=1), 0)
    before = copy.deepcopy(learner.state())
    report = learner.step(bad, 1)
    assert not report.total.isfinite()
    assert learner.last_update_finite == 0.0
    assert_same(_weights_and_moments(learner.state()), _weights_and_moments(before))


def _weights_and_moments(state: dict[str, Any]) -> dict[str, Any]:
    return {name: part.get("state", part) for name, part in state.items()}  # without the learning rates


@BAD
@OPTIMIZERS
def test_training_goes_on_after_a_bad_batch_as_if_it_had_not_been(bad: PrismBatch, optimizer: dict[str, Any]) -> None:
    disturbed, calm = _learner(**optimizer), _learner(**optimizer)
    disturbed.step(bad, 0)  # also the very first batch, before there are any moments
    for step in range(2):
        for learner in (disturbed, calm):
            learner.step(random_batch(seed=step), step)
            assert learner.last_update_finite == 1.0
        disturbed.step(bad, step)
    assert_same(_weights_and_moments(disturbed.state()), _weights_and_moments(calm.state()))


@OPTIMIZERS
def test_a_good_batch_changes_every_weight_that_has_a_loss(optimizer: dict[str, Any]) -> None:
    learner = _learner(loss__supcon_warmup_steps=0, loss__supcon_ramp_steps=0, **optimizer)
    before = copy.deepcopy(learner.state()["network"])
    learner.step(random_batch(), 0)
    after = learner.state()["network"]
    assert [name for name in before if torch.equal(before[name], after[name]) and "rotary" not in name] == []


def test_weights_decay_in_matrices_only() -> None:
    settings = {"loss__supcon_warmup_steps": 0, "loss__supcon_ramp_steps": 0, "train__lr_warmup_steps": 0}
    free, decayed = _learner(**settings, train__weight_decay=0.0), _learner(**settings, train__weight_decay=0.5)
    for learner in (free, decayed):
        learner.step(random_batch(), 0)
    assert [group["weight_decay"] for group in decayed.state()["optimizer"]["param_groups"]] == [0.5, 0.0]
    one, other = (dict(learner.network.named_parameters()) for learner in (free, decayed))
    pulled = {name for name in one if not torch.equal(one[name], other[name])}
    assert pulled == {name for name, weight in one.items() if weight.ndim == 2 and min(weight.shape) > 1}
    assert not any(name.endswith("bias") or "norm" in name or name.endswith("cls") for name in pulled)


def test_the_rate_of_a_step_follows_from_its_number_alone() -> None:
    learner, resumed = _learner(), _learner()
    for step in range(3):
        learner.step(random_batch(), step)
    resumed.step(random_batch(), 2)
    rates = [group["lr"] for each in (learner, resumed) for group in each.state()["optimizer"]["param_groups"]]
    assert rates == [learner.learning_rate(2)] * 4
    assert learner.learning_rate(2) == pytest.approx(1e-3 * 3 / 40)


def test_equal_seeds_train_equal_weights() -> None:
    one, other = _learner(), _learner()
    for learner in (one, other):
        learner.step(random_batch(), 0)
    assert_same(one.state(), other.state())


@pytest.fixture
def shapes_unchecked() -> Iterator[None]:
    """The checker of shapes that stands around every function in tests cannot be compiled."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def _compiled(**overrides: Any) -> Learner:
    """As on a GPU, but with the backend that needs no compiler of C: its gradients are those of AOTAutograd too."""
    learner = _learner(**overrides)
    learner._forward = torch.compile(learner.network, backend="aot_eager")
    return learner


PROJECTION = "heads.projection."
WITHOUT_DISTANCE = {"loss__w_distance": 0.0, "train__weight_decay": 0.5, "train__lr_warmup_steps": 0}


def _states_of(learner: Learner, prefix: str) -> list[dict[str, Any]]:
    named = learner.network.named_parameters()
    return [learner._optimizers.adamw.state[weight] for name, weight in named if name.startswith(prefix)]


@pytest.mark.usefixtures("shapes_unchecked")
@pytest.mark.parametrize("build", [_learner, _compiled], ids=["eager", "compiled"])
def test_a_head_without_weight_neither_decays_nor_counts_steps(build: Any) -> None:
    learner = build(**WITHOUT_DISTANCE)
    before = copy.deepcopy(learner.network.state_dict())
    for step in range(2):
        learner.step(random_batch(seed=step), step)
    after = learner.network.state_dict()
    unused = [name for name in before if name.startswith(("heads.distance.", PROJECTION))]
    assert [name for name in unused if not torch.equal(before[name], after[name])] == []
    assert not any(_states_of(learner, "heads.distance.") + _states_of(learner, PROJECTION))


@pytest.mark.usefixtures("shapes_unchecked")
def test_on_its_ramp_a_compiled_projection_begins_where_its_weight_does() -> None:
    ramp = {"loss__supcon_warmup_steps": 2, "loss__supcon_ramp_steps": 4}
    one, other = _learner(**ramp), _compiled(**ramp)
    for step in range(5):  # weights 0, 0, 0, 1/4, 1/2 of the target
        for learner in (one, other):
            learner.step(random_batch(seed=step), step)
    counts = {float(state["step"]) for learner in (one, other) for state in _states_of(learner, PROJECTION)}
    assert counts == {2.0}
    for name, weight in one.network.state_dict().items():
        torch.testing.assert_close(other.network.state_dict()[name], weight, rtol=1e-4, atol=1e-6)


AS_BETTY_PLACE = {
    "model__normalize_patches": True, "model__position_features": True, "loss__heads_across_pairs": True,
}  # fmt: skip


@pytest.mark.usefixtures("shapes_unchecked")
@pytest.mark.parametrize("settings", [{}, AS_BETTY_PLACE, {"model__masked_share": 0.5, "loss__w_masked": 1.0}])
def test_a_run_compiles_its_network_once_and_whole(settings: dict[str, Any]) -> None:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    learner = _learner(loss__supcon_warmup_steps=1, loss__supcon_ramp_steps=1, **settings)
    learner._forward = torch.compile(learner.network, backend="eager")
    for step in range(3):  # SupCon begins meanwhile
        learner.step(random_batch(seed=step), step)
    first = learner.state()
    config = phantom_cpu()
    learner.network.eval()  # as an evaluation does, with batches of other sizes
    with torch.no_grad():
        other = random_batch(n_pairs=config.eval.batch_views // 4)
        learner.network(other.patches_a, other.positions_a, other.patches_b, other.positions_b)
    learner.network.train()
    learner.load_state(first)
    learner.step(random_batch(seed=3), 3)
    counted = torch._dynamo.utils.counters
    assert counted["stats"]["unique_graphs"] == 1
    assert not counted["graph_break"]
