"""The place test against oracles: who knows the point finds it, who knows nothing guesses; pairs lie in one frame."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from prism_ssl.contracts import PLACE_POINTS, Float64, PreparedScan
from prism_ssl.data.phantoms.truth import phantom_truth
from prism_ssl.data.scan.nifti import OpenScan, open_scan
from prism_ssl.data.views.view_pairs import room_mm
from prism_ssl.eval.place.points import APART_MM, shared_points
from prism_ssl.eval.place.retrieval import PlaceSet, build_place_set, centred, place_answers, place_gain, place_scalars
from tests.support.probe_sets import prepared_scans, small


@pytest.fixture(scope="module")
def scans(phantom_catalog: Path) -> list[PreparedScan]:
    return prepared_scans(phantom_catalog, 16)


@pytest.fixture(scope="module")
def place_set(scans: list[PreparedScan]) -> PlaceSet:
    return build_place_set(scans, small())


def _same_on_both_sides(features: Float64) -> Float64:
    """[Q, K, D] -> [Q, 2, K, D]."""
    return np.stack([features, features], axis=1)


def _points_of_the_unit_sphere(place_set: PlaceSet) -> Float64:
    """Embeddings by which nearer in angle is nearer in mm, up to curvature: (x, y, z, 1000 mm)."""
    constant = np.full((*place_set.points_mm.shape[:2], 1), 1000.0)
    return np.concatenate([place_set.points_mm, constant], axis=2)


def test_the_pairs_are_series_of_one_patient_and_not_two_ct(place_set: PlaceSet) -> None:
    # subjects 0, 3, 6 and 9 have CT and MR
    assert len(place_set.pairs) + len(place_set.left_out) == 4
    assert len(set(place_set.patients)) == len(place_set.pairs) >= 3
    for a, b in place_set.pairs:
        assert a.record.subject_id == b.record.subject_id
        assert {a.record.modality, b.record.modality} == {"CT", "MR"}


def test_points_lie_apart_in_the_body_and_a_ball_fits_around_each_in_both(
    place_set: PlaceSet, phantom_catalog: Path
) -> None:
    truth = phantom_truth(phantom_catalog)
    assert truth is not None
    for pair, points in zip(place_set.pairs, place_set.points_mm, strict=True):
        assert points.shape == (PLACE_POINTS, 3)
        gaps = [np.linalg.norm(p - q) for p, q in itertools.combinations(points, 2)]
        assert min(gaps) >= APART_MM
        for scan in pair:
            opened = open_scan(scan.record.nifti_path, scan.stats)
            assert room_mm(opened.affine, opened.shape, points).min() >= small().view.radius_mm_floor
        places = truth.places(pair[0].record, list(points))
        assert places is not None
        assert np.mean([place.organ.name == "AIR" for place in places]) < 0.2, "lungs and bowel hold air, rooms do too"


def test_who_knows_the_point_finds_it_and_who_knows_nothing_guesses(place_set: PlaceSet) -> None:
    known = place_scalars(
        place_answers(_same_on_both_sides(_points_of_the_unit_sphere(place_set)), place_set), place_set
    )
    assert (known["place_recall_at_1"], known["place_distance_mm"]) == pytest.approx((1.0, 0.0))
    blind = np.ones((len(place_set.pairs), 2, PLACE_POINTS, 4))
    guessed = place_scalars(place_answers(blind, place_set), place_set)
    assert guessed["place_recall_at_1"] == pytest.approx(guessed["place_recall_at_1_chance"]) == pytest.approx(1 / 16)
    assert guessed["place_distance_mm"] == pytest.approx(guessed["place_distance_mm_chance"])
    assert guessed["place_distance_mm"] > 30


def test_a_neighbour_that_is_found_instead_costs_recall_and_little_distance(place_set: PlaceSet) -> None:
    embeddings = _same_on_both_sides(_points_of_the_unit_sphere(place_set))
    apart = np.linalg.norm(place_set.points_mm[0][:, None] - place_set.points_mm[0][None], axis=2)
    one, other = np.unravel_index(np.where(apart > 0, apart, np.inf).argmin(), apart.shape)
    embeddings[0, 1, [one, other]] = embeddings[0, 1, [other, one]]
    answers = place_answers(embeddings, place_set)
    assert answers.recall[0] == pytest.approx(14 / 16)
    assert answers.distance_mm[0] == pytest.approx(2 * apart[one, other] / 16)
    assert answers.recall[1:] == pytest.approx(1)


def test_a_patient_with_many_pairs_counts_once(place_set: PlaceSet) -> None:
    answers = place_answers(_same_on_both_sides(_points_of_the_unit_sphere(place_set)), place_set)
    wrong_on_the_second = dataclasses.replace(answers, recall=np.array([1.0, 0.0, 0.0, 0.0]))
    first, second = place_set.pairs[0], place_set.pairs[1]
    four = dataclasses.replace(
        place_set, pairs=[first, second, second, second], points_mm=place_set.points_mm[[0, 1, 1, 1]]
    )
    four_answers = dataclasses.replace(wrong_on_the_second, distance_mm=np.array([10.0, 40.0, 40.0, 40.0]))
    values = place_scalars(four_answers, four)
    assert (values["place_recall_at_1"], values["place_pairs"], values["place_patients"]) == (0.5, 4, 2)
    guess_mm = [np.linalg.norm(p[:, None] - p[None], axis=2).mean() for p in place_set.points_mm[:2]]
    assert values["place_distance_mm"] == 25.0
    assert values["place_distance_mm_chance"] == pytest.approx(np.mean(guess_mm))
    half = stats.t.ppf(0.975, 1) * 0.5  # of the mean of 1 and 0
    interval = values["place_recall_at_1_low"], values["place_recall_at_1_high"]
    assert interval == pytest.approx((0.5 - half, 0.5 + half))


def test_the_views_follow_from_seed_and_scans_alone(scans: list[PreparedScan], place_set: PlaceSet) -> None:
    other = build_place_set(scans[::-1], small(train__seed=9, eval__batch_views=4, eval__probe_scans=2))
    assert [a.record.scan_id for a, _ in other.pairs] == [a.record.scan_id for a, _ in place_set.pairs]
    assert np.array_equal(other.patches, place_set.patches)
    fewer = build_place_set(scans, small(eval__place_pairs=1))
    assert np.array_equal(fewer.patches, place_set.patches[:1])
    assert not np.array_equal(build_place_set(scans, small(eval__seed=1)).patches, place_set.patches)


def test_a_pair_is_asked_several_times_and_counts_once(scans: list[PreparedScan], place_set: PlaceSet) -> None:
    thrice = build_place_set(scans, small(eval__place_draws=3))
    assert thrice.pairs == place_set.pairs
    assert np.array_equal(thrice.patches[::3], place_set.patches), "the first exam is that of a single draw"
    exams = thrice.points_mm[:3]
    assert not any(np.array_equal(a, b) for a, b in itertools.combinations(exams, 2))
    knows = _same_on_both_sides(_points_of_the_unit_sphere(thrice))
    knows[1] = 1.0  # in one of three exams of the first pair it guesses
    answers = place_answers(knows, thrice)
    assert answers.recall == pytest.approx([(2 + 1 / PLACE_POINTS) / 3, *[1.0] * (len(thrice.pairs) - 1)])
    values = place_scalars(answers, thrice)
    assert values["place_pairs"] == len(place_set.pairs)
    guess_mm = [np.linalg.norm(p[:, None] - p[None], axis=2).mean() for p in thrice.points_mm]
    assert values["place_distance_mm_chance"] == pytest.approx(np.mean(guess_mm))


def test_two_series_with_the_same_voxels_are_no_pair(scans: list[PreparedScan], place_set: PlaceSet) -> None:
    doubled = {scan.record.scan_id for scan in place_set.pairs[0]}
    same = [
        dataclasses.replace(scan, content="c" if scan.record.scan_id in doubled else scan.content) for scan in scans
    ]
    assert build_place_set(same, small()).patients == place_set.patients[1:]


def test_pairs_of_two_modalities_are_also_told_apart(place_set: PlaceSet) -> None:
    (a, b), rest = place_set.pairs[0], place_set.pairs[1:]
    both_mr = tuple(dataclasses.replace(s, record=dataclasses.replace(s.record, modality="MR")) for s in (a, b))
    mixed = dataclasses.replace(place_set, pairs=[(both_mr[0], both_mr[1]), *rest])
    answers = place_answers(np.ones((len(mixed.pairs), 2, PLACE_POINTS, 4)), mixed)
    answers = dataclasses.replace(answers, recall=np.array([1.0, *[0.25] * len(rest)]))
    values = place_scalars(answers, mixed)
    assert values["place_recall_at_1_ct_mr"] == 0.25 < values["place_recall_at_1"]


def test_centred_views_are_found_whatever_all_views_of_a_series_share(place_set: PlaceSet) -> None:
    rng = np.random.default_rng(0)
    knows = rng.normal(size=(len(place_set.pairs), 1, PLACE_POINTS, 12))
    both = knows + 8.0 * rng.normal(size=(1, 2, 1, 12))  # all views of a series lie to one side
    assert place_answers(both, place_set).recall.mean() < 0.6
    assert place_answers(centred(both), place_set).recall.mean() > 0.95


def test_a_gain_is_counted_patient_by_patient() -> None:
    recall, other = np.array([0.5, 0.7, 0.9]), np.array([0.1, 0.1, 0.6])
    gain, low, high = place_gain(recall, other, ["p", "p", "q"])
    assert gain == pytest.approx(0.4)  # p: mean of 0.4 and 0.6; q: 0.3
    half = stats.t.ppf(0.975, 1) * np.std([0.5, 0.3], ddof=1) / np.sqrt(2)
    assert (low, high) == pytest.approx((0.4 - half, 0.4 + half))


def _heads(place_set: PlaceSet) -> tuple[OpenScan, OpenScan]:
    pair = next(pair for pair in place_set.pairs if "head" in pair[0].record.nifti_path)
    a, b = (open_scan(scan.record.nifti_path, scan.stats) for scan in pair)
    return a, b


@pytest.mark.parametrize(("shift_mm", "why"), [(900.0, "boxes do not overlap"), (110.0, "foregrounds overlap|share")])
def test_series_of_different_frames_are_no_pair(place_set: PlaceSet, shift_mm: float, why: str) -> None:
    a, b = _heads(place_set)
    moved = b.affine.copy()
    moved[0, 3] += shift_mm
    shared = shared_points(a, dataclasses.replace(b, affine=moved), 20.0, 10.0, np.random.default_rng(0))
    assert shared.points_mm is None
    assert any(words in shared.why for words in why.split("|"))


def test_without_pairs_only_their_number_is_told(scans: list[PreparedScan]) -> None:
    one_each = list({scan.record.subject_id: scan for scan in scans}.values())
    nothing = build_place_set(one_each, small())
    answers = place_answers(np.empty((0, 2, PLACE_POINTS, 4)), nothing)
    assert place_scalars(answers, nothing) == {"place_pairs": 0, "place_pairs_left_out": 0}


def test_a_pair_that_does_not_open_is_told(scans: list[PreparedScan], place_set: PlaceSet, tmp_path: Path) -> None:
    victim = place_set.pairs[0][0].record.scan_id
    gone = [
        dataclasses.replace(s, record=dataclasses.replace(s.record, nifti_path=str(tmp_path / "gone.nii.gz")))
        if s.record.scan_id == victim
        else s
        for s in scans
    ]
    (told,) = [words for words in build_place_set(gone, small()).left_out if victim in words]
    assert "gone.nii.gz" not in told
