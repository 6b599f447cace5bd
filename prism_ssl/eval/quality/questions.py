"""Questions of a held-out evaluation: their settings, and why two runs do not compare (pure)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from prism_ssl.config.defaults import known_keys
from prism_ssl.config.operations import EvalConfig
from prism_ssl.config.schema import PrismConfig

if TYPE_CHECKING:
    from prism_ssl.eval.quality.evidence import PatientEvidence

_WEIGHTS = ("eval.w_retrieval", "eval.w_skill", "eval.w_place", "eval.w_lidar")
_WEIGHT_OF_POSITION = "eval.w_position"
_LIMITS = ("eval.probe_scans", "eval.place_pairs")
"""Settings that only limit which series and pairs are evaluated: the series and pairs themselves are compared."""
_VIEWS = (
    "view.radius_mm_min",
    "view.radius_mm_max",
    "view.radius_mm_floor",
    "view.rotation_max_deg",
    "view.window_width_std_min",
    "view.window_width_std_max",
)
"""Settings of views that apply to held-out views; the others apply to training pairs only."""
_LATER = {"eval.centers": "anywhere", "eval.place_draws": 1, _WEIGHT_OF_POSITION: 0.0}
"""Settings that earlier versions did not have, and their defaults."""
_ALWAYS = ("eval.seed", "eval.views_per_scan", "eval.n_patches", "data.patch_mm", *_VIEWS, *_LIMITS, *_WEIGHTS)
ASKED = (*_ALWAYS, *_LATER)
"""Settings that decide what an encoder is asked, and how its answers are weighed."""


def evaluation_settings(config: PrismConfig) -> dict[str, Any]:
    """The settings that decide what an encoder is asked and how its answers are weighed, by their names.

    ``eval.n_patches`` is the number of patches that was used: ``data.n_patches`` where the setting is None.
    Settings that earlier versions did not have are left out at their defaults.
    """
    known = known_keys(config)
    known["eval.n_patches"] = config.held_out_patches
    later = [name for name, default in _LATER.items() if known[name] != default]
    return {name: known[name] for name in (*_ALWAYS, *later)}


def weighed_alike(config: EvalConfig, settings: Mapping[str, Any] | None) -> EvalConfig:
    """``config`` with the weights of ``evaluation_settings``, where these are known."""
    if settings is None:
        return config
    weights = {name: settings[name] for name in _WEIGHTS if name in settings}
    weights[_WEIGHT_OF_POSITION] = settings.get(_WEIGHT_OF_POSITION, _LATER[_WEIGHT_OF_POSITION])
    return dataclasses.replace(config, **{name.removeprefix("eval."): value for name, value in weights.items()})


def why_apart(run: PatientEvidence, best: PatientEvidence) -> str | None:
    """Why a run does not compare with the best one, in words; None where it does.

    Settings that one of them does not have on record count as equal, so an evaluation of an earlier version is judged
    by its series, pairs, patients, axes, chance levels, and the signs that its views ask for. Views that another
    version drew differently under equal settings keep a run apart.
    """
    if differ := _differing(run, best, [name for name in run.settings or () if name not in _LIMITS]):
        return differ
    asked = {
        "series": (run.series, run.patient_of_series) == (best.series, best.patient_of_series),
        "pairs in the place test": (run.pairs, run.patient_of_pair) == (best.pairs, best.patient_of_pair),
        "axes": run.axes == best.axes,
        "views": _same_views(run, best) and _chances(run) == _chances(best),
    }
    other = next((what for what, same in asked.items() if not same), None)
    if other is None:
        return None
    limits = _differing(run, best, _LIMITS)
    return f"it was asked about other {other}" + (f" ({limits})" if limits else "")


def _differing(run: PatientEvidence, best: PatientEvidence, names: Iterable[str]) -> str:
    here, there = run.settings or {}, best.settings or {}
    return "; ".join(
        f"{name} is {here[name]}, the best run's is {there[name]}"
        for name in names
        if name in here and name in there and here[name] != there[name]
    )


def _same_views(run: PatientEvidence, best: PatientEvidence) -> bool:
    told = None in (run.drawn, best.drawn) or run.drawn == best.drawn
    return told and run.signs.tobytes() == best.signs.tobytes()


def _chances(evidence: PatientEvidence) -> tuple[float, float | None]:
    return evidence.recall_chance, evidence.place_chance if evidence.pairs else None
