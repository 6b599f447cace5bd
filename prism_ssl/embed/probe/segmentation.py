"""Tell the voxels of a label from frozen fields: logistic regression at lattice points, scored by patient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from sklearn.metrics import roc_auc_score

from prism_ssl.config.operations import EvalConfig
from prism_ssl.contracts import Float64, ScanRecord
from prism_ssl.embed.field.lattice import Int64
from prism_ssl.embed.field.places import labels_at, mask_file, open_mask
from prism_ssl.embed.field.scan_field import FIELDS_TABLE, field_file, read_field
from prism_ssl.errors import ConfigError, ScanRejected
from prism_ssl.eval.frozen_probe import linear_classifier, mean_over_patients
from prism_ssl.eval.patients import Estimate, patient_folds

POINTS_OF_EACH = 1000
"""Points of a scan that a probe is fitted on: at most so many within the label, and so many outside."""


@dataclass(frozen=True)
class SegmentationRow:
    """One encoder: mean over patients of AUROC and Dice, and how much better the first one's are, paired."""

    encoder: str
    auroc: Estimate
    dice: Estimate
    better_auroc: Estimate | None
    better_dice: Estimate | None


@dataclass(frozen=True)
class Segmented:
    """What was told, on which scans, and a row for each encoder. ``dice_chance``: the Dice of calling every point."""

    scans: int
    patients: int
    points: int
    within: int
    dice_chance: float
    rows: list[SegmentationRow]


@dataclass(frozen=True)
class MaskedScan:
    """A scan with a field and a mask."""

    record: ScanRecord
    mask: Path


def masked_scans(fields: Sequence[Path], masks: Path, series_paths: Mapping[str, str]) -> list[MaskedScan]:
    """The scans that have a mask, and a field in each folder of ``fields``.

    Args:
        series_paths: scan id -> path of its series in the catalogue; empty where masks are named by scan id.

    Raises:
        ConfigError: a folder holds no fields, or fewer than two patients have all of it.
    """
    found = list[MaskedScan]()
    for row in _table(fields[0]).sort("scan_id").iter_rows(named=True):
        scan_id = row["scan_id"]
        record = ScanRecord(scan_id, "", row["modality"], "", series_paths.get(scan_id, ""), row["subject_id"])
        try:
            mask = mask_file(masks, record)
        except ScanRejected:
            continue
        if all(field_file(folder, scan_id).is_file() for folder in fields):
            found.append(MaskedScan(record, mask))
    if len({scan.record.subject_id for scan in found}) < 2:
        raise ConfigError(
            f"{len(found)} scans have a field in {', '.join(map(str, fields))} and a mask in {masks}; needed: those of "
            "two patients or more. Masks are named by scan_id, or by series_path if the catalogue is given"
        )
    return found


def _table(folder: Path) -> pl.DataFrame:
    try:
        return pl.read_parquet(folder / FIELDS_TABLE, columns=["scan_id", "subject_id", "modality"], glob=False)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise ConfigError(f"{folder} holds no {FIELDS_TABLE}; needed: a folder of prism field") from error


def segment(
    encoders: Mapping[str, Path], scans: Sequence[MaskedScan], label: int | None, config: EvalConfig
) -> Segmented:
    """Probe the fields of each encoder (name -> folder) for ``label`` (None: any label but 0); folds go by patient.

    Scans without a point in the label are fitted on, and not scored.

    Raises:
        ConfigError: fields of one scan have other points, or too few patients have points in the label and outside.
    """
    _refuse_other_points(encoders, scans)
    by_encoder, points, within = dict[str, dict[str, Float64]](), 0, 0
    for name, folder in encoders.items():
        by_encoder[name], points, within = _scored(folder, scans, label)
    rows, first = list[SegmentationRow](), next(iter(by_encoder.values()))
    for name, scores in by_encoder.items():
        values = np.stack([scores[patient] for patient in sorted(scores)])
        gain = np.stack([first[patient] - scores[patient] for patient in sorted(scores)])
        auroc, dice = (mean_over_patients(values[:, column].tolist(), config) for column in range(2))
        better = [
            None if scores is first else mean_over_patients(gain[:, column].tolist(), config) for column in range(2)
        ]
        rows.append(SegmentationRow(name, auroc, dice, *better))
    dice_chance = float(np.mean([scores[2] for scores in first.values()]))
    return Segmented(len(scans), len(first), points, within, dice_chance, rows)


def _refuse_other_points(encoders: Mapping[str, Path], scans: Sequence[MaskedScan]) -> None:
    """Paired differences are of the same points."""
    (first, folder), *others = encoders.items()
    for scan in scans:
        points_mm = read_field(field_file(folder, scan.record.scan_id)).points_mm
        for name, other in others:
            beside_mm = read_field(field_file(other, scan.record.scan_id)).points_mm
            if points_mm.shape != beside_mm.shape or not np.allclose(points_mm, beside_mm, atol=1e-3):
                raise ConfigError(
                    f"the fields {first} have {len(points_mm)} points in scan {scan.record.scan_id}, the fields {name} "
                    f"have {len(beside_mm)}, at other places; needed: fields of one --spacing"
                )


def _scored(folder: Path, scans: Sequence[MaskedScan], label: int | None) -> tuple[dict[str, Float64], int, int]:
    """Patient -> (AUROC, Dice, Dice of calling every point), means over its scans; all points, and those within."""
    samples = [_sample(*_points_of(folder, scan, label), number) for number, scan in enumerate(scans)]
    patients = np.array([scan.record.subject_id for scan in scans])
    found: dict[str, list[tuple[float, ...]]] = {}
    points = within = 0
    for train, test in patient_folds(patients):
        probe, threshold = _fitted([samples[number] for number in train])
        for number in test:
            x, y = _points_of(folder, scans[number], label)
            points, within = points + len(y), within + int(y.sum())
            if 0 < y.sum() < len(y):
                told = probe.predict_proba(x)[:, 1]
                dice = 2 * (y & (told >= threshold)).sum() / max(1, y.sum() + (told >= threshold).sum())
                of_all = 2 * y.sum() / (y.sum() + len(y))
                scores = float(roc_auc_score(y, told)), float(dice), float(of_all)
                found.setdefault(patients[number], []).append(scores)
    if len(found) < 2:
        raise ConfigError(f"{len(found)} patients have lattice points in the label and outside; needed: two or more")
    return {patient: np.mean(scores, axis=0) for patient, scores in found.items()}, points, within


def _points_of(folder: Path, scan: MaskedScan, label: int | None) -> tuple[Float64, Any]:
    """Vectors [M, D] of a scan's field, and whether each point lies in the label [M]."""
    field = read_field(field_file(folder, scan.record.scan_id))
    labels: Int64 = labels_at(open_mask(scan.mask), field.points_mm)
    return field.vectors.astype(float), (labels != 0) if label is None else (labels == label)


def _sample(x: Float64, y: Any, seed: int) -> tuple[Float64, Any, Float64]:
    """Some points within the label and some outside, and how many points each stands for."""
    rng = np.random.default_rng(seed)
    kept, weight = [], []
    for side in (True, False):
        (all_of,) = np.nonzero(y == side)
        some = rng.permutation(all_of)[:POINTS_OF_EACH]
        kept.append(some)
        weight.append(np.full(len(some), len(all_of) / max(1, len(some))))
    rows = np.concatenate(kept)
    return x[rows], y[rows], np.concatenate(weight)


def _fitted(samples: Sequence[tuple[Float64, Any, Float64]]) -> tuple[Any, float]:
    """The probe, and the threshold with the best Dice on what it was fitted on."""
    x, y, weight = (np.concatenate(parts) for parts in zip(*samples, strict=True))
    if len(set(y.tolist())) < 2:
        raise ConfigError(
            "the patients that a probe is fitted on have no lattice point in the label; needed: more scans"
        )
    probe = linear_classifier().fit(x, y)
    told = probe.predict_proba(x)[:, 1]
    order = np.argsort(-told, kind="stable")
    hits, taken = np.cumsum((weight * y)[order]), np.cumsum(weight[order])
    dice = 2 * hits / (taken + (weight * y).sum())
    return probe, float(told[order][int(dice.argmax())])
