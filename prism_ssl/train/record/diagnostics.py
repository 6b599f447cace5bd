"""Diagnostics beside every loss: chance levels, targets, predictions, skill, positives, embeddings."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import nn

from prism_ssl.config.network import Objective
from prism_ssl.model.loss import LossReport
from prism_ssl.model.pair_targets import AXES, constant_loss, sign_skill
from prism_ssl.train.record.embedding_health import RecentEmbeddings
from prism_ssl.train.record.head_updates import HeadUpdates

_FIELDS = ("prediction", "target", "unit", "valid", "signed")


class Diagnostics:
    """Gathers the reports of the steps between two log rows; only ``row`` waits for the device.

    Args:
        objective: what the pair heads predict.
        heads: the heads by the name of their loss.
    """

    def __init__(self, objective: Objective, heads: Mapping[str, nn.Module]) -> None:
        self._answers_are_numbers = objective == "regression"
        self._updates = HeadUpdates(heads)
        self._embeddings = RecentEmbeddings()
        self._axes: list[str] = []
        self._readings: list[torch.Tensor] = []  # per step [fields, axes, B]
        self._scalars: list[torch.Tensor] = []  # per step [scalars]
        self._weights: list[dict[str, float]] = []
        self._last: LossReport | None = None

    def add(self, report: LossReport) -> None:
        """Add one step; no device sync."""
        self._axes, self._last = list(report.readings), report
        columns = [torch.stack([getattr(r, field).float() for r in report.readings.values()]) for field in _FIELDS]
        self._readings.append(torch.stack(columns))
        self._scalars.append(torch.stack([value.float() for value in _device_scalars(report).values()]))
        self._weights.append({name: term.weight for name, term in report.terms.items()})
        self._embeddings.add(report.embeddings)

    def row(self) -> dict[str, float]:
        """Scalars of the steps since the last call (the window).

        ``loss*/*`` and ``supcon/*`` are means over the steps of the window (a non-finite step makes them NaN),
        ``weight/*`` are those of the last step. ``chance/*`` is the value of ``loss/*`` without looking at the
        images: predicting the mean target of the window, guessing, or equal similarities; ``chance_raw/*`` and
        ``chance_normalized/*`` stand beside ``loss_raw/*`` and ``loss_normalized/*``. ``target_*``, ``pred_*``
        (normalised units), ``std_ratio/*`` and ``skill/*`` are over all pairs of the window; ``signed_share/*`` is
        the share of them outside the dead zone. Skill is 2 x balanced accuracy - 1 of the predicted sign: 1 perfect,
        0 chance. ``update/*`` is described in ``HeadUpdates``, ``embedding/*`` in ``RecentEmbeddings``.
        """
        assert self._last is not None, "row() follows add()"
        device = _device_scalars(self._last)
        updates = self._updates.row()
        means = torch.cat([torch.stack(self._scalars).mean(dim=0), torch.stack(list(updates.values()))]).tolist()
        values = dict(zip([*device, *updates], means, strict=True))
        values |= {f"weight/{name}": weight for name, weight in self._weights[-1].items()}
        readings = torch.cat(self._readings, dim=2).cpu()
        values |= self._of_axes(readings)
        if self._answers_are_numbers:
            values |= self._constant_answers(readings)
        values |= self._chance(values)
        self._readings.clear()
        self._scalars.clear()
        self._weights.clear()
        return values | self._embeddings.row()

    def _of_axes(self, readings: torch.Tensor) -> dict[str, float]:
        values: dict[str, float] = {}
        prediction, target, _, valid, signed = readings.unbind(0)
        for axis, name in enumerate(self._axes):
            seen = valid[axis] > 0
            values |= _axis(name, prediction[axis][seen], target[axis][seen])
            values[f"skill/{name}"] = float(sign_skill(prediction[axis], target[axis], signed[axis] > 0))
            values[f"signed_share/{name}"] = float(signed[axis].mean())
        return values

    def _constant_answers(self, readings: torch.Tensor) -> dict[str, float]:
        """Chance level of the regression heads over the window; from a single batch's mean it would be too low."""
        values: dict[str, float] = {}
        _, target, unit, valid, _ = readings.unbind(0)
        for head, axes in AXES.items():
            rows = [self._axes.index(name) for name in axes]
            wanted, known = target[rows].T, valid[rows[:1]].T > 0
            values[f"chance_normalized/{head}"] = float(constant_loss(wanted, known))
            values[f"chance_raw/{head}"] = float(constant_loss(wanted * unit[rows].T, known))
        return values

    def _chance(self, values: Mapping[str, float]) -> dict[str, float]:
        """``chance/*`` in the optimised units, and ``chance/total``."""
        assert self._last is not None
        chance = {
            name: values[f"chance_{'normalized' if term.optimizes_normalized else 'raw'}/{name}"]
            for name, term in self._last.terms.items()
        }
        mean_weight = {name: sum(w[name] for w in self._weights) / len(self._weights) for name in chance}
        total = sum(mean_weight[name] * value for name, value in chance.items())
        return {"chance/total": total, **{f"chance/{name}": value for name, value in chance.items()}}


def _device_scalars(report: LossReport) -> dict[str, torch.Tensor]:
    scalars = {"loss/total": report.total.detach()}
    for name, term in report.terms.items():
        scalars[f"loss/{name}"] = term.value
        scalars[f"loss_raw/{name}"], scalars[f"loss_normalized/{name}"] = term.raw, term.normalized
        scalars[f"chance_raw/{name}"], scalars[f"chance_normalized/{name}"] = term.chance_raw, term.chance_normalized
    positives = report.positives
    scalars["supcon/positives_mean"], scalars["supcon/positives_min"] = positives.mean, positives.min
    scalars["supcon/cross_pair_share"] = positives.cross_pair_share
    scalars["supcon/loss_floor"] = positives.loss_floor
    scalars["supcon/distinct_series"] = report.distinct_series
    return scalars


def _axis(name: str, prediction: torch.Tensor, target: torch.Tensor) -> dict[str, float]:
    if len(target) < 2:
        return {f"{what}/{name}": math.nan for what in _AXIS_SCALARS}
    target_std, pred_std = float(target.std()), float(prediction.std())
    numbers = (float(target.mean()), target_std, float(prediction.mean()), pred_std, pred_std / max(target_std, 1e-12))
    return {f"{what}/{name}": number for what, number in zip(_AXIS_SCALARS, numbers, strict=True)}


_AXIS_SCALARS = ("target_mean", "target_std", "pred_mean", "pred_std", "std_ratio")
