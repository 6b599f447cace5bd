"""Does a loss mean anything? Targets, predictions and positives beside every loss, and alarms in plain words."""

from __future__ import annotations

import math

import torch

from prism_ssl.model.loss import LossReport
from prism_ssl.model.pair_targets import sign_skill

DEGENERATE_STD = 1e-3
"""A target whose normalised standard deviation is below this carries no information."""

PROLONGED_WINDOWS = 2
"""Log windows in a row after which a degenerate target is an alarm."""

_FIELDS = ("prediction", "target", "valid", "signed")


class Diagnostics:
    """Gathers what the steps between two log rows report; the device is only waited for in ``row``."""

    def __init__(self) -> None:
        self._axes: list[str] = []
        self._readings: list[torch.Tensor] = []  # per step [4, axes, B]
        self._scalars: list[torch.Tensor] = []  # per step [scalars]
        self._last: LossReport | None = None
        self._flat_windows: dict[str, int] = {}

    def add(self, report: LossReport) -> None:
        """Note one step; no device sync."""
        self._axes, self._last = list(report.readings), report
        columns = [torch.stack([getattr(r, field).float() for r in report.readings.values()]) for field in _FIELDS]
        self._readings.append(torch.stack(columns))
        self._scalars.append(torch.stack([value.float() for value in _device_scalars(report).values()]))

    def row(self) -> tuple[dict[str, float], list[str]]:
        """Scalars of the window since the last call, and the alarms that it raises.

        ``loss*/*``, ``chance/*`` and ``supcon/*`` are means over the steps of the window (a non-finite step makes
        them NaN), ``weight/*`` are those of the last step. ``target_*``, ``pred_*`` (normalised units),
        ``std_ratio/*`` and ``skill/*`` are over all pairs of the window. Skill is 2 x balanced accuracy - 1 of the
        predicted sign: 1 perfect, 0 chance.
        """
        assert self._last is not None, "row() follows add()"
        means = torch.stack(self._scalars).mean(dim=0).tolist()
        values = dict(zip(_device_scalars(self._last), means, strict=True))
        values |= {f"weight/{name}": term.weight for name, term in self._last.terms.items()}
        prediction, target, valid, signed = torch.cat(self._readings, dim=2).cpu().unbind(0)
        for axis, name in enumerate(self._axes):
            seen = valid[axis] > 0
            values |= _axis(name, prediction[axis][seen], target[axis][seen])
            values[f"skill/{name}"] = float(sign_skill(prediction[axis], target[axis], signed[axis] > 0))
        self._readings.clear()
        self._scalars.clear()
        return values, self._alarms(values)

    def _alarms(self, values: dict[str, float]) -> list[str]:
        alarms = []
        for name in self._axes:
            flat = values[f"target_std/{name}"] < DEGENERATE_STD
            self._flat_windows[name] = self._flat_windows.get(name, 0) + 1 if flat else 0
            if self._flat_windows[name] == PROLONGED_WINDOWS:
                alarms.append(
                    f"the target {name!r} hardly varies (standard deviation {values[f'target_std/{name}']:.1e} in "
                    f"normalised units for {PROLONGED_WINDOWS} log windows): a low loss of its head means nothing"
                )
        return alarms


def _device_scalars(report: LossReport) -> dict[str, torch.Tensor]:
    scalars = {"loss/total": report.total.detach(), "chance/total": report.chance_total}
    for name, term in report.terms.items():
        scalars[f"loss/{name}"], scalars[f"chance/{name}"] = term.value, term.chance
        scalars[f"loss_raw/{name}"], scalars[f"loss_normalized/{name}"] = term.raw, term.normalized
    positives = report.positives
    scalars["supcon/positives_mean"], scalars["supcon/positives_min"] = positives.mean, positives.min
    scalars["supcon/cross_pair_share"] = positives.cross_pair_share
    scalars["supcon/loss_floor"] = positives.loss_floor
    return scalars


def _axis(name: str, prediction: torch.Tensor, target: torch.Tensor) -> dict[str, float]:
    if len(target) < 2:
        return {f"{what}/{name}": math.nan for what in _AXIS_SCALARS}
    target_std, pred_std = float(target.std()), float(prediction.std())
    numbers = (float(target.mean()), target_std, float(prediction.mean()), pred_std, pred_std / max(target_std, 1e-12))
    return {f"{what}/{name}": number for what, number in zip(_AXIS_SCALARS, numbers, strict=True)}


_AXIS_SCALARS = ("target_mean", "target_std", "pred_mean", "pred_std", "std_ratio")
