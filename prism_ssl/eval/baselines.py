"""Baselines on the same held-out views: random weights, pixel statistics, spacing alone, modality alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch

from prism_ssl.config.schema import PrismConfig
from prism_ssl.contracts import Float64, PreparedScan
from prism_ssl.eval.held_out_scalars import (
    Answers,
    class_probes,
    held_out_scalars,
    patients_of_views,
    retrieval,
    series_of_view,
)
from prism_ssl.eval.pixel_statistics import LAYOUT, LAYOUT_COLUMNS, pixel_statistics, read_pairs, standardised
from prism_ssl.eval.place.retrieval import PlaceSet
from prism_ssl.eval.probe_set import ProbeSet
from prism_ssl.eval.quality.evidence import PatientEvidence
from prism_ssl.model.pair_targets import AxisReading

COMPARED = (
    "recall_at_1",
    "recall_at_5",
    "pose_skill_mean",
    "place_recall_at_1",
    "place_recall_at_1_ct_mr",
    "place_recall_at_1_centred",
    "place_distance_mm",
    "position_recall_at_1",
    "position_skill",
    "telling_directions",
    "proxy_quality",
    *(f"{probe}_{what}" for what in ("modality", "organ") for probe in ("knn", "linear")),
)
"""Scalars that every baseline reports too, each with the baseline's ending."""

RANDOM, PIXELS, SPACING, MODALITY = "_random_init", "_pixels", "_spacing", "_modality_alone"
"""The baselines' endings."""


def pixel_evaluation(
    asked: Answers, probe_set: ProbeSet, place_set: PlaceSet, config: PrismConfig
) -> tuple[dict[str, float], PatientEvidence]:
    """``held_out_scalars`` with pixel statistics as the embedding of a view.

    The place test uses only the layout of the texture, because that finds more places than all statistics do. A ridge
    regression fitted on other patients predicts the pair targets of ``asked``.
    """
    embeddings = pixel_statistics(probe_set.patches, np.array([view.positions_mm for view in probe_set.views]))
    at_places = pixel_statistics(
        place_set.patches.reshape(-1, *place_set.patches.shape[3:]),
        place_set.positions_mm.reshape(-1, *place_set.positions_mm.shape[3:]),
    )
    answers = Answers(
        embeddings,
        at_places[:, LAYOUT_COLUMNS].reshape(*place_set.patches.shape[:3], LAYOUT),
        _read_by_ridge(asked, embeddings, patients_of_views(probe_set)[::2]),
    )
    return held_out_scalars(answers, probe_set, place_set, config)


def scanner_scalars(scans: Sequence[PreparedScan], probe_set: ProbeSet, config: PrismConfig) -> dict[str, float]:
    """Same-series recall and class probes from a scan's spacing alone; same-series recall from its modality alone.
    ``scans`` contains those of the probe set."""
    spacing_of = {scan.record.scan_id: sorted(np.round(scan.spacing_mm, 2)) for scan in scans}
    of_scan = np.log(np.array([spacing_of[record.scan_id] for record in probe_set.scans]))
    series = series_of_view(probe_set)
    _, same_spacing = np.unique(of_scan, axis=0, return_inverse=True)
    _, same_modality = np.unique([record.modality for record in probe_set.scans], return_inverse=True)
    alone = [np.eye(len(of_scan))[group.ravel()][probe_set.scan_of_view] for group in (same_spacing, same_modality)]
    values = retrieval(alone[0], series) | class_probes(
        standardised(of_scan[probe_set.scan_of_view]), probe_set, config.eval.knn_k
    )
    by_modality = retrieval(alone[1], series)
    return compared(values, SPACING) | compared(by_modality, MODALITY)


def compared(values: dict[str, float], ending: str) -> dict[str, float]:
    """Those of ``values`` that are in ``COMPARED``, with the ending."""
    return {f"{name}{ending}": values[name] for name in COMPARED if name in values}


def _read_by_ridge(asked: Answers, per_view: Float64, patients: Sequence[str]) -> dict[str, AxisReading]:
    axes = [axis for axis in asked.readings if axis != "distance"]
    targets = np.stack([asked.readings[axis].target.double().numpy() for axis in axes], axis=1)
    predicted = read_pairs(per_view, targets, patients)
    if predicted is None:
        return {}
    return {
        axis: dataclasses.replace(asked.readings[axis], prediction=torch.from_numpy(predicted[:, column]))
        for column, axis in enumerate(axes)
    }
