"""What stands beside a loss is what a slow reading of the same pairs would say."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from prism_ssl.config.network import Objective
from prism_ssl.config.schema import LossConfig, ViewConfig
from prism_ssl.contracts import PrismBatch, PrismOutput
from prism_ssl.model.loss import LossBundle, LossReport
from prism_ssl.train.record.diagnostics import Diagnostics
from tests.support.model_batches import one_hot_projection, output_of, random_batch

HEADS = ("distance", "rotation", "window_center", "window_width")
SIGNED = ("dx", "dy", "dz", "rx", "ry", "rz", "wc", "ww")
CONFIG = LossConfig(supcon_warmup_steps=0, supcon_ramp_steps=0)


def _batches() -> list[PrismBatch]:
    """Three batches; some differences lie in their dead zones."""
    batches = []
    for seed in range(3):
        batch = random_batch(n_pairs=8, seed=seed, labels=[0, 0, 1, 2, 3, 4, 5, seed])
        batch.rotation_delta_deg[seed] = 0.5
        batch.center_delta_mm[:2, 1] = -4.0
        batches.append(batch)
    return batches


def _answer(batch: PrismBatch, objective: Objective, seed: int) -> PrismOutput:
    g = torch.Generator().manual_seed(100 + seed)
    distance, rotation, window = (torch.randn(8, k, generator=g) for k in (3 + (objective == "regression"), 3, 2))
    return output_of(distance, rotation, window, one_hot_projection(batch.series_label))


def _reports(objective: Objective, config: LossConfig = CONFIG) -> list[LossReport]:
    bundle = LossBundle(config, ViewConfig(), objective)
    return [bundle(_answer(b, objective, i), b, step=i) for i, b in enumerate(_batches())]


def _diagnostics(objective: Objective = "regression") -> Diagnostics:
    return Diagnostics(objective, {"rotation": torch.nn.Linear(2, 3)})


def _row(reports: list[LossReport], diagnostics: Diagnostics) -> dict[str, float]:
    for report in reports:
        diagnostics.add(report)
    return diagnostics.row()


def _slow_reading(objective: Objective) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Of every axis: predictions, normalised targets, and whether the sign counts, straight from the batches."""
    found: dict[str, tuple[list[float], list[float], list[bool]]] = {}
    for seed, batch in enumerate(_batches()):
        answer = _answer(batch, objective, seed)
        for pair in range(8):
            std = batch.intensity_scale[pair].item()
            truths = {
                "distance": (batch.center_distance_mm[pair].item(), 30.0, math.inf),
                **{f"d{a}": (batch.center_delta_mm[pair, i].item(), 30.0, 5.0) for i, a in enumerate("xyz")},
                **{f"r{a}": (batch.rotation_delta_deg[pair, i].item(), 10.0, 1.0) for i, a in enumerate("xyz")},
                "wc": (batch.window_delta[pair, 0].item(), std, 0.1 * std),
                "ww": (batch.window_delta[pair, 1].item(), std, 0.1 * std),
            }
            said = torch.cat([answer.distance, answer.rotation, answer.window_center, answer.window_width], 1)[pair]
            names = list(truths)[-len(said) :]
            for name, value in zip(names, said.tolist(), strict=True):
                truth, unit, dead = truths[name]
                lists = found.setdefault(name, ([], [], []))
                lists[0].append(value if objective == "regression" else 2 / (1 + math.exp(-value)) - 1)
                lists[1].append(truth / unit if objective == "regression" else math.copysign(1.0, truth))
                lists[2].append(abs(truth) > dead)
    return {name: (np.array(p), np.array(t), np.array(s)) for name, (p, t, s) in found.items()}


def _slow_skill(prediction: np.ndarray, target: np.ndarray, signed: np.ndarray) -> float:
    hits: dict[bool, list[bool]] = {True: [], False: []}
    for said, truth, counts in zip(prediction, target, signed, strict=True):
        if counts:
            hits[bool(truth > 0)].append((said > 0) == (truth > 0))
    accuracies = [sum(group) / len(group) for group in hits.values()]
    return sum(accuracies) / 2 * 2 - 1


@pytest.mark.parametrize("objective", ["regression", "classification"])
def test_means_spreads_and_skill_are_those_of_a_slow_reading(objective: Objective) -> None:
    row = _row(_reports(objective), _diagnostics(objective))
    axes = SIGNED if objective == "classification" else ("distance", *SIGNED)
    slow = _slow_reading(objective)
    assert set(axes) == set(slow)
    for name, (prediction, target, signed) in slow.items():
        seen = signed if objective == "classification" else np.ones_like(signed)
        oracle = {
            "target_mean": target[seen].mean(),
            "target_std": target[seen].std(ddof=1),
            "pred_mean": prediction[seen].mean(),
            "pred_std": prediction[seen].std(ddof=1),
            "std_ratio": prediction[seen].std(ddof=1) / target[seen].std(ddof=1),
        }
        told = {what: row[f"{what}/{name}"] for what in oracle}
        assert told == pytest.approx(oracle, rel=1e-4, abs=1e-5), name
        if name != "distance":
            assert row[f"skill/{name}"] == pytest.approx(_slow_skill(prediction, target, signed), abs=1e-6), name
            assert row[f"signed_share/{name}"] == pytest.approx(signed.mean())
    if objective == "regression":
        assert math.isnan(row["skill/distance"])


def test_losses_are_means_of_the_window() -> None:
    reports = _reports("regression")
    row = _row(reports, _diagnostics())
    for name in (*HEADS, "supcon"):
        terms = [report.terms[name] for report in reports]
        assert row[f"loss/{name}"] == pytest.approx(np.mean([t.value.item() for t in terms]), rel=1e-5)
        assert row[f"loss_raw/{name}"] == pytest.approx(np.mean([t.raw.item() for t in terms]), rel=1e-5)
        assert row[f"loss_normalized/{name}"] == pytest.approx(np.mean([t.normalized.item() for t in terms]), rel=1e-5)
    assert row["loss/total"] == pytest.approx(np.mean([report.total.item() for report in reports]), rel=1e-5)


def _smooth_l1(error: float) -> float:
    return error**2 / 2 if abs(error) < 1 else abs(error) - 0.5


@pytest.mark.parametrize("normalized", [True, False])
def test_chance_of_a_regression_is_the_mean_of_all_pairs_of_the_window_answered_to_each(normalized: bool) -> None:
    batches = _batches()
    degrees = np.concatenate([batch.rotation_delta_deg.numpy() for batch in batches]).astype(float)
    row = _row(_reports("regression", replace(CONFIG, normalize_targets=normalized)), _diagnostics())
    told = {}
    for kind, unit in (("raw", 1.0), ("normalized", 10.0)):
        errors = (degrees - degrees.mean(axis=0)) / unit
        told[kind] = np.mean([_smooth_l1(error) for error in errors.flat])
        assert row[f"chance_{kind}/rotation"] == pytest.approx(told[kind], rel=1e-5)
    assert row["chance/rotation"] == pytest.approx(told["normalized" if normalized else "raw"], rel=1e-5)


@pytest.mark.parametrize("objective", ["regression", "classification"])
def test_chance_of_the_total_is_that_of_its_terms_by_their_mean_weights(objective: Objective) -> None:
    row = _row(_reports(objective, replace(CONFIG, supcon_ramp_steps=4, w_supcon_target=0.8)), _diagnostics(objective))
    if objective == "classification":
        assert [row[f"chance/{head}"] for head in HEADS] == pytest.approx([math.log(2)] * 4)
    assert row["chance/supcon"] == pytest.approx(math.log(15))
    heads = sum(row[f"chance/{head}"] for head in HEADS)
    assert row["chance/total"] == pytest.approx(heads + 0.2 * math.log(15), rel=1e-5)  # weights 0, 0.2, 0.4


def test_the_weight_is_that_of_the_last_step() -> None:
    row = _row(_reports("regression", replace(CONFIG, supcon_ramp_steps=4, w_supcon_target=0.8)), _diagnostics())
    assert row["weight/supcon"] == pytest.approx(0.8 * 2 / 4)
    assert row["weight/distance"] == 1.0


def test_positives_per_anchor_are_counted() -> None:
    row = _row(_reports("regression"), _diagnostics())
    means, crossing = [], []
    for batch in _batches():
        labels = [*batch.series_label.tolist()] * 2
        means.append(np.mean([labels.count(label) - 1 for label in labels]))
        crossing.append(np.mean([labels.count(label) > 2 for label in labels]))
    assert row["supcon/positives_mean"] == pytest.approx(np.mean(means))
    assert row["supcon/positives_min"] == 1.0
    assert row["supcon/cross_pair_share"] == pytest.approx(np.mean(crossing))


def test_a_window_forgets_the_one_before() -> None:
    reports, diagnostics = _reports("regression"), _diagnostics()
    _row(reports[:2], diagnostics)
    later = _row(reports[2:], diagnostics)
    alone = _row(reports[2:], _diagnostics())
    embedding = {key for key in later if key.startswith("embedding/")}  # of the last steps, whatever the window
    assert {key: later[key] for key in later.keys() - embedding} == pytest.approx(
        {key: alone[key] for key in alone.keys() - embedding}, nan_ok=True
    )


class NoWaiting(TorchDispatchMode):
    """Fails on every operation that would make a host wait for its device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func).removeprefix("aten.").split(".")[0]
        assert name not in ("_local_scalar_dense", "is_nonzero", "nonzero", "masked_select", "equal"), func
        assert (kwargs or {}).get("device") is None, func
        return func(*args, **(kwargs or {}))


def test_noting_a_step_never_waits_for_the_device() -> None:
    no_waiting: Any = NoWaiting  # torch has no types for it
    bundles = {objective: LossBundle(CONFIG, ViewConfig(), objective) for objective in get_args(Objective)}
    for objective, bundle in bundles.items():
        batch, diagnostics = _batches()[0], _diagnostics(objective)
        report = bundle(_answer(batch, objective, 0), batch, 0)
        with no_waiting():
            diagnostics.add(report)
        with no_waiting(), pytest.raises(AssertionError, match="_local_scalar_dense"):
            diagnostics.row()


def test_distinct_series_of_a_batch_are_counted() -> None:
    row = _row(_reports("regression"), _diagnostics())
    assert row["supcon/distinct_series"] == pytest.approx(
        np.mean([len(set(batch.series_label.tolist())) for batch in _batches()])
    )


def test_the_change_of_heads_and_the_health_of_embeddings_stand_in_the_row() -> None:
    row = _row(_reports("regression"), _diagnostics())
    assert row["update/rotation"] == 0.0
    assert row["embedding/effective_rank"] > 2.0
