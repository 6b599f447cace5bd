"""Evidence of a held-out evaluation per patient, kept with the run so that runs can be compared patient by patient.

Legend: S series, A axes, Q pairs of the place test.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from prism_ssl.contracts import Float64
from prism_ssl.utils.fs import write_atomic

EVIDENCE_FILE = "held_out_evidence.json"
"""File of a run folder with the evidence of the last held-out evaluation."""

_FORMAT = 1
_PLACE = "place_recall_at_1"


@dataclass(frozen=True, eq=False)
class PatientEvidence:
    """Raw results (chance not subtracted) by series and by pair; patients and series by their hashed ids.

    ``signs`` counts, per series and axis, view pairs whose true sign is (up, down); ``right`` those predicted rightly.
    """

    series: list[str]  # [S]
    patient_of_series: list[str]  # [S]
    recall: Float64  # [S] recall@1 of the series' own views
    recall_chance: float
    axes: list[str]  # [A]
    signs: Float64  # [S, A, 2]
    right: Float64  # [S, A, 2]
    pairs: list[tuple[str, str]]  # [Q] series
    patient_of_pair: list[str]  # [Q]
    place_recall: Float64  # [Q] recall@1 of the place test
    place_distance_mm: Float64  # [Q]
    place_chance: float
    telling_share: float
    """Telling directions as a share of the largest possible number; NaN where there are too few series."""
    settings: Mapping[str, Any] | None = None
    """``evaluation_settings`` of the evaluation; None: an earlier version did not keep them."""
    drawn: str | None = None
    """Hash of all views and of the points of the pairs: another version may draw others under equal settings."""
    position: Float64 | None = None
    """``position_sums`` [S, 3, 6]; None: an earlier version did not measure it."""
    untrained_place: Mapping[str, Float64] = field(default_factory=dict)
    """Place recall [Q] of what needs no training, by the ending of its scalars; empty for earlier versions."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON; values that are not finite become None."""
        series = [
            {
                "series": name,
                "patient": self.patient_of_series[s],
                "recall_at_1": _plain(self.recall[s]),
                "signs": dict(zip(self.axes, self.signs[s].tolist(), strict=True)),
                "right": dict(zip(self.axes, self.right[s].tolist(), strict=True)),
                **({} if self.position is None else {"position": self.position[s].tolist()}),
            }
            for s, name in enumerate(self.series)
        ]
        pairs = [
            {
                "series": list(pair),
                "patient": self.patient_of_pair[q],
                _PLACE: _plain(self.place_recall[q]),
                "place_distance_mm": _plain(self.place_distance_mm[q]),
                **{f"{_PLACE}{ending}": _plain(recall[q]) for ending, recall in self.untrained_place.items()},
            }
            for q, pair in enumerate(self.pairs)
        ]
        return {
            "format": _FORMAT,
            **({} if self.settings is None else {"settings": dict(self.settings), "drawn": self.drawn}),
            "recall_at_1_chance": _plain(self.recall_chance),
            "place_recall_at_1_chance": _plain(self.place_chance),
            "telling_share": _plain(self.telling_share),
            "axes": self.axes,
            "series": series,
            "pairs": pairs,
        }

    @staticmethod
    def from_dict(known: Mapping[str, Any]) -> PatientEvidence:
        """The inverse of ``to_dict``; raises KeyError or TypeError for any other form."""
        if known["format"] != _FORMAT:
            raise KeyError(f"format {known['format']!r}")
        series, pairs, axes = known["series"], known["pairs"], known["axes"]
        names = [name for each in (*series, *pairs) for name in (*_listed(each["series"]), each["patient"])]
        if not all(isinstance(name, str) for name in (*names, *axes)):
            raise TypeError("a name is no string")
        settings, drawn = known.get("settings"), known.get("drawn")
        if not (isinstance(settings, dict | None) and isinstance(drawn, str | None)):
            raise TypeError("the settings are no mapping, or the hash of the views is no string")
        shape = len(series), len(axes), 2
        counts = {
            what: np.array([[each[what][axis] for axis in axes] for each in series], float).reshape(shape)
            for what in ("signs", "right")
        }
        return PatientEvidence(
            series=[each["series"] for each in series],
            patient_of_series=[each["patient"] for each in series],
            recall=_floats([each["recall_at_1"] for each in series]),
            recall_chance=float(_floats([known["recall_at_1_chance"]])[0]),
            axes=list(axes),
            signs=counts["signs"],
            right=counts["right"],
            pairs=[(each["series"][0], each["series"][1]) for each in pairs],
            patient_of_pair=[each["patient"] for each in pairs],
            place_recall=_floats([each[_PLACE] for each in pairs]),
            place_distance_mm=_floats([each["place_distance_mm"] for each in pairs]),
            place_chance=float(_floats([known["place_recall_at_1_chance"]])[0]),
            telling_share=float(_floats([known["telling_share"]])[0]),
            settings=settings,
            drawn=drawn,
            position=_position(series),
            untrained_place={
                name.removeprefix(_PLACE): _floats([each[name] for each in pairs])
                for name in (pairs[0] if pairs else {})
                if name.startswith(f"{_PLACE}_")
            },
        )


def write_evidence(run_dir: Path, evidence: PatientEvidence | None) -> None:
    """Write the evidence to the run folder, whole or not at all; None removes that of an earlier evaluation."""
    if evidence is None:
        (run_dir / EVIDENCE_FILE).unlink(missing_ok=True)
    else:
        write_atomic(run_dir / EVIDENCE_FILE, (json.dumps(evidence.to_dict()) + "\n").encode())


def read_evidence(run_dir: Path) -> PatientEvidence | None:
    """Read what ``write_evidence`` wrote; None when the file is missing or cannot be read."""
    try:
        return PatientEvidence.from_dict(json.loads((run_dir / EVIDENCE_FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return None


def evidence_of_runs(runs: pl.DataFrame) -> dict[str, PatientEvidence]:
    """``run`` -> its evidence, for the runs of a table (``run``, ``run_dir``) whose folders hold one."""
    if "run_dir" not in runs.columns:
        return {}
    folders = [(run, Path(folder)) for run, folder in runs.select("run", "run_dir").iter_rows() if folder is not None]
    found = {run: _cached_evidence(folder, _changed_ns(folder)) for run, folder in folders}
    return {run: evidence for run, evidence in found.items() if evidence is not None}


@functools.lru_cache(maxsize=512)
def _cached_evidence(folder: Path, changed_ns: int) -> PatientEvidence | None:  # noqa: ARG001  part of the key
    return read_evidence(folder)


def _changed_ns(folder: Path) -> int:
    try:
        return (folder / EVIDENCE_FILE).stat().st_mtime_ns
    except OSError:
        return 0


def _listed(names: Any) -> list[Any]:
    return list(names) if isinstance(names, list) else [names]


def _position(series: list[Any]) -> Float64 | None:
    if not series or any("position" not in each for each in series):
        return None
    return np.array([each["position"] for each in series], float).reshape(len(series), 3, 6)


def _plain(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _floats(values: list[float | None]) -> Float64:
    return np.array([np.nan if value is None else value for value in values], np.float64)
