"""Muon takes the steps of torch's, of a size that AdamW's have, and its moments outlive a resume."""

from __future__ import annotations

import copy

import pytest
import torch

from prism_ssl.config.defaults import apply_overrides, phantom_cpu
from prism_ssl.train.learner import Learner
from prism_ssl.train.optimizer import GuardedMuon, orthogonal
from tests.support.model_batches import random_batch
from tests.unit.train.test_checkpoint import assert_same

SHAPES = pytest.mark.parametrize("shape", [(24, 24), (48, 16), (16, 48)], ids=str)


@SHAPES
def test_steps_are_those_of_torch(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    ours = torch.nn.Parameter(torch.randn(shape))
    theirs = torch.nn.Parameter(ours.detach().clone())
    one = GuardedMuon([ours], lr=0.02, weight_decay=0.3)
    other = torch.optim.Muon(
        [theirs], lr=0.02, weight_decay=0.3, momentum=0.95, nesterov=True, adjust_lr_fn="match_rms_adamw"
    )
    for _ in range(4):
        ours.grad = torch.randn(shape)
        theirs.grad = ours.grad.clone()
        before = ours.detach().clone()
        one.step()
        other.step()
        assert not torch.equal(ours, before)
    assert torch.allclose(ours, theirs, atol=1e-5)


@SHAPES
def test_a_direction_has_the_singular_vectors_of_the_gradient_and_values_near_1(shape: tuple[int, int]) -> None:
    torch.manual_seed(1)
    gradient = torch.randn(shape) * 1e-4
    u, _, vt = torch.linalg.svd(gradient, full_matrices=False)
    core = u.T @ orthogonal(gradient) @ vt.T
    assert ((core.diagonal() > 0.55) & (core.diagonal() < 1.35)).all()
    assert (core - torch.diag(core.diagonal())).abs().max() < 0.05


def test_only_the_matrices_of_the_blocks_are_muons_and_a_resume_goes_on_alike() -> None:
    config = apply_overrides(phantom_cpu(), {"train.muon_lr": 3e-3})
    torch.manual_seed(0)
    learner = Learner(config, torch.device("cpu"))
    names = {id(weight): name for name, weight in learner.network.named_parameters()}
    muon, adamw = learner._optimizers.muon, learner._optimizers.adamw
    assert muon is not None
    taken = {names[id(weight)] for group in muon.param_groups for weight in group["params"]}
    assert taken == {name for name in names.values() if name.startswith("encoder.blocks") and name.endswith("weight")
                     and "norm" not in name}  # fmt: skip
    rest = {names[id(weight)] for group in adamw.param_groups for weight in group["params"]}
    assert taken | rest == set(names.values())
    assert not taken & rest
    learner.step(random_batch(seed=1), 0)
    kept = copy.deepcopy(learner.state())
    resumed = Learner(config, torch.device("cpu"))
    resumed.load_state(kept)
    for each in (learner, resumed):
        each.step(random_batch(seed=2), 1)
    assert_same(resumed.state(), learner.state())
