"""Place test: retrieve the view of the same place from another series of the same patient.

Needs no label and no trained head. Pairs are two series of one patient in one frame of reference: CT and MR, or two
MR. Two CT are left out: often they are one acquisition reconstructed twice, so raw pixels suffice.

Legend: Q pairs, each asked ``draws`` times at other points and with other views, so E = Q x draws exams; K points of an
exam; here a pair has two sides, its series.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from prism_ssl.config.schema import PrismConfig
from prism_ssl.contracts import PATCH_PX, PLACE_POINTS, Float32, Float64, PreparedScan
from prism_ssl.data.extract import extract_view
from prism_ssl.data.scan import OpenScan, ReadLimits, archive_root, open_scan, out_of_memory
from prism_ssl.data.views import draw_view_at
from prism_ssl.eval.patients import by_patient, student_interval
from prism_ssl.eval.place.points import shared_points
from prism_ssl.eval.proxy_metrics import cross_similarity, hits_at
from prism_ssl.utils.hashing import stable_int
from prism_ssl.utils.seeds import generator_for

CHANCE = 1.0 / PLACE_POINTS
"""Recall@1 of guessing."""

PAIRS_OF_A_PATIENT = 3
"""Most pairs of one patient: the interval is over patients, so further pairs add little."""

_Exam = tuple[Float64, npt.NDArray[np.int16], Float32]  # points, patches, positions

_SMALLEST = 1e-12

_TRIES = 4
"""Most pairs opened per requested pair."""


@dataclass(frozen=True, eq=False)
class PlaceSet:
    """The views of the place test; ``left_out`` names each pair that was opened and not used, with the reason.

    The ``draws`` exams of a pair follow each other.
    """

    pairs: list[tuple[PreparedScan, PreparedScan]]  # [Q]
    points_mm: Float64  # [E, K, 3] RAS
    patches: npt.NDArray[np.int16]  # [E, 2, K, N, H, W], fixed point as in a chunk
    positions_mm: Float32  # [E, 2, K, N, 3]
    left_out: list[str]
    draws: int = 1

    @property
    def patients(self) -> list[str]:
        """Patient of each pair [Q]."""
        return [a.record.subject_id for a, _ in self.pairs]

    @property
    def across(self) -> npt.NDArray[np.bool_]:
        """Whether the series of each pair are of two modalities [Q]."""
        return np.array([a.record.modality != b.record.modality for a, b in self.pairs], bool)

    @property
    def chance_mm(self) -> float:
        """Mean distance of a guess from the query point, averaged by patient."""
        of_exam = [_distances_mm(points).mean() for points in self.points_mm]
        return float(by_patient(self.by_pair(of_exam), self.patients).mean())

    def by_pair(self, values: npt.ArrayLike) -> Float64:
        """The mean of each pair's exams: [E] -> [Q]."""
        means: Float64 = np.asarray(values, np.float64).reshape(-1, self.draws).mean(axis=1)
        return means


def no_places(left_out: Sequence[str] = ()) -> PlaceSet:
    """A place test without pairs."""
    shape = (0, 2, PLACE_POINTS, 1)
    patches, positions = np.empty((*shape, PATCH_PX, PATCH_PX), np.int16), np.empty((*shape, 3), np.float32)
    return PlaceSet([], np.empty((0, PLACE_POINTS, 3)), patches, positions, list(left_out))


@dataclass(frozen=True, eq=False)
class PlaceAnswers:
    """By pair, the mean over exams, points and both directions: recall@1 [Q], and how far the found point lies [Q]."""

    recall: Float64
    distance_mm: Float64


def build_place_set(held_out: Sequence[PreparedScan], config: PrismConfig) -> PlaceSet:
    """At most ``eval.place_pairs`` pairs among the held-out scans, each with ``eval.place_draws`` exams of
    ``PLACE_POINTS`` points and their views.

    An exam's points and views follow from ``eval.seed``, its number, the two scan ids and the settings of views alone.
    Patients come in an order hashed with ``eval.seed``, first with one pair each. Raises ``ArchiveUnreachable``.
    """
    wanted = config.eval.place_pairs
    root = archive_root(scan.record.nifti_path for scan in held_out) if held_out else ""
    limits = ReadLimits(root, config.data.open_timeout_s, config.data.outage_patience_s)
    pairs, exams, left_out = list[tuple[PreparedScan, PreparedScan]](), list[_Exam](), list[str]()
    for pair in itertools.islice(_candidates(held_out, config.eval.seed), _TRIES * wanted):
        if len(pairs) == wanted:
            break
        try:
            found, why = _exams(pair, config, limits)
        except MemoryError as error:
            raise out_of_memory("for the place test", error) from error
        except (ValueError, ArithmeticError) as error:  # ScanRejected is a ValueError
            found, why = [], f"{type(error).__name__}: {error}"
        if not found:
            left_out.append(f"scans {pair[0].record.scan_id} and {pair[1].record.scan_id}: {why}")
            continue
        exams += found
        pairs.append(pair)
    if not pairs:
        return no_places(left_out)
    points, patches, positions = zip(*exams, strict=True)
    return PlaceSet(
        pairs=pairs,
        points_mm=np.stack(points),
        patches=np.stack(patches),
        positions_mm=np.stack(positions),
        left_out=left_out,
        draws=config.eval.place_draws,
    )


def place_answers(embeddings: Float64, place_set: PlaceSet) -> PlaceAnswers:
    """Retrieve, for each view [E, 2, K, D], the most similar of the K views of the other side."""
    recall, distance_mm = [], []
    positive, candidate = np.eye(PLACE_POINTS, dtype=bool), np.ones((PLACE_POINTS, PLACE_POINTS), bool)
    for (a, b), points_mm in zip(embeddings, place_set.points_mm, strict=True):
        apart_mm = _distances_mm(points_mm)
        similarity = cross_similarity(a, b)
        recall.append([hits_at(each, positive, candidate, k=1).mean() for each in (similarity, similarity.T)])
        distance_mm.append([_found_mm(each, apart_mm) for each in (similarity, similarity.T)])
    return PlaceAnswers(
        *(place_set.by_pair(np.array(values).reshape(-1, 2).mean(axis=1)) for values in (recall, distance_mm))
    )


def place_scalars(answers: PlaceAnswers, place_set: PlaceSet) -> dict[str, float]:
    """The scalars ``place_*``; only ``place_pairs`` and ``place_pairs_left_out`` where no pair was found.

    Means are over patients, after the mean over each patient's pairs; the 95 % interval is Student's, over patients.
    """
    counts = {"place_pairs": float(len(place_set.pairs)), "place_pairs_left_out": float(len(place_set.left_out))}
    if not place_set.pairs:
        return counts
    recall = by_patient(answers.recall, place_set.patients)
    low, high = student_interval(recall)
    across = place_set.across
    of_two = np.array(place_set.patients)[across].tolist()
    return counts | {
        "place_patients": float(len(recall)),
        "place_recall_at_1": float(recall.mean()),
        "place_recall_at_1_low": low,
        "place_recall_at_1_high": high,
        "place_recall_at_1_chance": CHANCE,
        "place_distance_mm": float(by_patient(answers.distance_mm, place_set.patients).mean()),
        "place_distance_mm_chance": place_set.chance_mm,
        **({"place_recall_at_1_ct_mr": float(by_patient(answers.recall[across], of_two).mean())} if of_two else {}),
    }


def centred(embeddings: Float64) -> Float64:
    """Unit vectors [..., K, D] less the mean over the K places of a series: without what its views share."""
    unit = embeddings / np.maximum(np.linalg.norm(embeddings, axis=-1, keepdims=True), _SMALLEST)
    less_mean: Float64 = unit - unit.mean(axis=-2, keepdims=True)
    return less_mean


def place_gain(recall: Float64, other: Float64, patients: Sequence[str]) -> tuple[float, float, float]:
    """``recall`` [Q] less an ``other`` encoder's of the same pairs: mean over patients, and its 95 % interval."""
    gain = by_patient(recall - other, patients)
    return float(gain.mean()), *student_interval(gain)


def _candidates(held_out: Sequence[PreparedScan], seed: int) -> Iterator[tuple[PreparedScan, PreparedScan]]:
    """Pairs of one patient, not both CT: every patient's first pair, then every second pair; CT with MR goes first."""
    of_patient: dict[str, list[PreparedScan]] = {}
    for scan in sorted(held_out, key=lambda scan: stable_int("place", seed, scan.record.scan_id)):
        of_patient.setdefault(scan.record.subject_id, []).append(scan)
    ranked = []
    for patient in sorted(of_patient, key=lambda patient: stable_int("place", seed, patient)):
        pairs = [
            (a, b)
            for a, b in itertools.combinations(of_patient[patient], 2)
            if "MR" in (a.record.modality, b.record.modality)
            and a.record.series_id != b.record.series_id
            and not (a.content and a.content == b.content)  # one acquisition under two ids
        ]
        pairs.sort(key=lambda pair: pair[0].record.modality == pair[1].record.modality)
        ranked.append(pairs[:PAIRS_OF_A_PATIENT])
    for number in range(PAIRS_OF_A_PATIENT):
        yield from (pairs[number] for pairs in ranked if number < len(pairs))


def _exams(pair: tuple[PreparedScan, PreparedScan], config: PrismConfig, limits: ReadLimits) -> tuple[list[_Exam], str]:
    """The exams of a pair; or none, and the reason."""
    limit = config.preflight.max_volume_bytes
    a, b = (limits.read(partial(open_scan, Path(scan.record.nifti_path), scan.stats, limit)) for scan in pair)
    found = list[_Exam]()
    for draw in range(config.eval.place_draws):
        exam, why = _exam((a, b), tuple(scan.record.scan_id for scan in pair), draw, config)
        if exam is None:
            return [], why
        found.append(exam)
    return found, ""


def _exam(
    scans: tuple[OpenScan, OpenScan], names: tuple[str, ...], draw: int, config: PrismConfig
) -> tuple[_Exam | None, str]:
    """Points, patches [2, K, N, H, W] and positions [2, K, N, 3] of a pair; or None and the reason."""
    view, n_patches = config.view, config.held_out_patches
    key = ["place", *sorted(names), *([f"draw {draw}"] if draw else [])]
    shared = shared_points(*scans, view.radius_mm_min, view.radius_mm_floor, generator_for(config.eval.seed, *key))
    if shared.points_mm is None:
        return None, shared.why
    patches = np.empty((2, PLACE_POINTS, n_patches, PATCH_PX, PATCH_PX), np.int16)
    positions = np.empty((2, PLACE_POINTS, n_patches, 3), np.float32)
    for side, (scan, name) in enumerate(zip(scans, names, strict=True)):
        for point in range(PLACE_POINTS):
            rng = generator_for(config.eval.seed, *key, name, point)
            center_mm = shared.points_mm[point]
            drawn = draw_view_at(center_mm, scan.affine, scan.shape, scan.stats, view, n_patches, rng)
            extract_view(scan, drawn, config.data.patch_mm, patches[side, point])
            positions[side, point] = drawn.positions_mm
    return (shared.points_mm, patches, positions), ""


def _distances_mm(points_mm: Float64) -> Float64:
    distances: Float64 = np.linalg.norm(points_mm[:, None] - points_mm[None], axis=2)
    return distances


def _found_mm(similarity: Float64, apart_mm: Float64) -> float:
    """Mean distance of the most similar candidate from the query point; ties count with their mean."""
    found = similarity == similarity.max(axis=1, keepdims=True)
    return float(((found * apart_mm).sum(axis=1) / found.sum(axis=1)).mean())
