"""Pairs that a run trains on: where their centres lie, which scans they show, and what a curve does."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from prism_ssl.config.schema import ViewConfig
from prism_ssl.contracts import PATCH_SCALE, Float64, VisitKey
from prism_ssl.data.extract import extract_view
from prism_ssl.data.scan import OpenScan, robust_stats
from prism_ssl.data.views import (
    Scene,
    apply_curve,
    draw_pair,
    draw_training_pair,
    random_curve,
    scene_of,
)

PLAIN = ViewConfig(radius_mm_min=12, radius_mm_max=16)
BODY = dataclasses.replace(PLAIN, centers="foreground")
PLACE = dataclasses.replace(PLAIN, same_place_share=1.0)
OTHER = dataclasses.replace(PLACE, other_series_share=1.0)
KEYS = [VisitKey("scan", 0, visit) for visit in range(60)]


def _ball(value: float, spacing: float = 2.0, n: int = 60, shift_mm: float = 0.0, noise: int = 0) -> OpenScan:
    """A ball of radius 40 mm about (0, 0, 0) in air, 120 mm across."""
    rng = np.random.default_rng(noise)
    axis = (np.arange(n) - (n - 1) / 2) * spacing
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    voxels = np.where(x**2 + y**2 + z**2 < 40**2, value, 0) + rng.integers(0, 20, (n, n, n))
    affine = np.diag([spacing, spacing, spacing, 1.0])
    affine[:3, 3] = axis[0] + shift_mm
    voxels = voxels.astype(np.int16)
    return OpenScan(voxels, 1.0, 0.0, affine, robust_stats(voxels, 1.0, 0.0))


CT, MR = _ball(1000), _ball(300, spacing=1.5, n=80, noise=1)


def _centers(scene: Scene, config: ViewConfig) -> Float64:
    pairs = [draw_training_pair(scene, config, 4, 7, key) for key in KEYS]
    return np.array([[view.center_mm for view in pair.views] for pair in pairs])


def test_plain_settings_draw_what_the_guide_says_bit_for_bit() -> None:
    scene = scene_of(CT, MR, PLAIN, 7, "scan")
    assert scene.other is None
    for key in KEYS[:5]:
        pair = draw_training_pair(scene, PLAIN, 4, 7, key)
        for view, plain in zip(pair.views, draw_pair(CT.affine, CT.shape, CT.stats, PLAIN, 4, 7, key), strict=True):
            assert np.array_equal(view.positions_mm, plain.positions_mm)
            assert np.array_equal(view.center_mm, plain.center_mm)
            assert (view.window_center, view.window_width) == (plain.window_center, plain.window_width)
        assert pair.scans == (CT, CT)
        assert pair.window_known


def test_centres_lie_on_the_body_when_asked_to() -> None:
    anywhere = np.linalg.norm(_centers(scene_of(CT, None, PLAIN, 7, "scan"), PLAIN), axis=-1)
    on_body = np.linalg.norm(_centers(scene_of(CT, None, BODY, 7, "scan"), BODY), axis=-1)
    assert (anywhere > 45).mean() > 0.2
    assert on_body.max() < 45  # the radius and a lattice step
    assert np.linalg.norm(np.diff(_centers(scene_of(CT, None, BODY, 7, "s"), BODY), axis=1), axis=-1).mean() > 20


def test_the_asked_share_of_pairs_shows_one_place() -> None:
    half = dataclasses.replace(PLAIN, same_place_share=0.5)
    apart = np.diff(_centers(scene_of(CT, None, half, 7, "scan"), half), axis=1)[:, 0]
    same = np.abs(apart).max(axis=1) <= half.same_place_mm
    assert 0.3 < same.mean() < 0.7
    assert np.abs(apart[same]).max() > 1.0


def test_views_of_one_place_come_from_both_series_and_their_windows_are_not_compared() -> None:
    scene = scene_of(CT, MR, OTHER, 7, "scan")
    assert scene.other is MR
    pairs = [draw_training_pair(scene, OTHER, 4, 7, key) for key in KEYS]
    assert {(a is CT, b is CT) for a, b in (pair.scans for pair in pairs)} == {(True, False), (False, True)}
    assert not any(pair.window_known for pair in pairs)
    for pair in pairs:
        assert np.abs(pair.views[0].center_mm - pair.views[1].center_mm).max() <= OTHER.same_place_mm
        for view, scan in zip(pair.views, pair.scans, strict=True):
            assert abs(view.window_center - scan.stats.median) <= scan.stats.std
    centers = np.array([pair.views[0].center_mm for pair in pairs])
    assert np.linalg.norm(centers, axis=1).max() < 45


@pytest.mark.parametrize("other", [_ball(300, shift_mm=200.0), _ball(300, shift_mm=60.0)], ids=["far", "beside"])
def test_a_series_in_another_frame_is_not_taken(other: OpenScan) -> None:
    scene = scene_of(CT, other, OTHER, 7, "scan")
    assert scene.other is None
    assert all(pair.scans == (CT, CT) for pair in (draw_training_pair(scene, OTHER, 4, 7, key) for key in KEYS[:5]))


def test_a_scan_whose_body_leaves_no_room_is_sampled_in_its_middle() -> None:
    flat = dataclasses.replace(CT, voxels=CT.voxels[28:32].copy())
    scene = scene_of(flat, None, PLACE, 7, "scan")
    assert not len(scene.body_mm)
    a, b = draw_training_pair(scene, PLACE, 4, 7, KEYS[0]).views
    assert np.abs(a.center_mm - b.center_mm).max() <= PLACE.same_place_mm


def test_seed_and_key_fix_a_pair_and_different_visits_differ() -> None:
    scene = scene_of(CT, MR, OTHER, 7, "scan")
    first, again = (draw_training_pair(scene, OTHER, 4, 7, KEYS[3]) for _ in (0, 1))
    assert np.array_equal(first.views[1].positions_mm, again.views[1].positions_mm)
    assert len(np.unique(_centers(scene, OTHER)[:, 0], axis=0)) > 50


def test_curves_are_drawn_for_the_asked_share_and_hide_the_window() -> None:
    scene = scene_of(CT, None, PLAIN, 7, "scan")
    some = dataclasses.replace(PLAIN, random_contrast=0.5)
    pairs = [draw_training_pair(scene, some, 4, 7, key) for key in KEYS]
    share = np.mean([curve is not None for pair in pairs for curve in pair.curves])
    assert 0.35 < share < 0.65
    assert all(pair.window_known == (pair.curves[0] is None is pair.curves[1]) for pair in pairs)
    plain = draw_pair(CT.affine, CT.shape, CT.stats, some, 4, 7, KEYS[0])
    assert np.array_equal(pairs[0].views[0].center_mm, plain[0].center_mm)


STRETCHED = dataclasses.replace(OTHER, centers="foreground", random_scale=0.2, mirrored_share=0.5)


def test_a_changed_patient_is_a_scan_under_another_affine_for_a_whole_epoch() -> None:
    scene, seen = scene_of(CT, MR, STRETCHED, 7, "scan"), []
    for epoch in range(40):
        pairs = [draw_training_pair(scene, STRETCHED, 4, 7, VisitKey("scan", epoch, visit)) for visit in range(3)]
        changes = [scan.affine @ np.linalg.inv(_of(scan).affine) for pair in pairs for scan in pair.scans]
        assert np.allclose(changes, changes[0], atol=1e-9), "both series, and all pairs of an epoch, change alike"
        assert np.allclose(changes[0], np.diag(np.diag(changes[0])), atol=1e-9)
        seen.append(np.diag(changes[0])[:3])
        for pair in pairs:  # the patient's ball of radius 40 mm: no centre lies outside what the change makes of it
            for view in pair.views:
                assert np.linalg.norm(view.center_mm / seen[-1]) < 40 + 2 * STRETCHED.same_place_mm * 3**0.5
    factors = np.array(seen)
    assert 8 < (factors[:, 0] < 0).sum() < 32, "about half are mirrored"
    assert (factors[:, 1:] > 0).all()
    sizes = np.log(np.abs(factors))
    assert np.abs(sizes).max() <= 0.2 * 1.5 + 1e-9
    assert np.abs(sizes.mean(axis=1)).max() > 0.1
    assert np.ptp(sizes, axis=1).max() > 0.1


def _of(scan: OpenScan) -> OpenScan:
    """The scan whose voxels these are."""
    return CT if scan.voxels is CT.voxels else MR


def test_a_view_of_a_changed_patient_shows_the_voxel_that_lies_there() -> None:
    gradient = np.arange(60, dtype=np.int16)[None, None, :] * np.ones((60, 60, 1), np.int16) * 10
    scan = dataclasses.replace(CT, voxels=gradient, stats=robust_stats(gradient, 1.0, 0.0))
    config = dataclasses.replace(PLAIN, random_scale=0.3, mirrored_share=1.0)
    for key in (VisitKey("scan", epoch, 0) for epoch in range(4)):
        pair = draw_training_pair(scene_of(scan, None, config, 7, "scan"), config, 1, 7, key)
        view = dataclasses.replace(pair.views[0], positions_mm=np.zeros((1, 3), np.float32))
        view = dataclasses.replace(view, window_center=295.0, window_width=590.0)
        patches = np.empty((1, 16, 16), np.int16)
        extract_view(pair.scans[0], view, 16.0, patches)
        factor = abs(pair.scans[0].affine[0, 0]) / 2.0
        expected = (-view.center_mm[0] / factor + 59) / 2 * 10  # mirrored: voxel i lies at -(2 i - 59) * factor
        assert patches.mean() / PATCH_SCALE * 295 + 295 == pytest.approx(expected, abs=1.0)


def test_a_curve_never_turns_and_keeps_the_ends_of_the_window_however_many_pixels_pass_it() -> None:
    rng, inverted = np.random.default_rng(0), 0
    values = np.arange(-PATCH_SCALE, PATCH_SCALE + 1, dtype=np.int16)
    for _ in range(40):
        heights = random_curve(rng)
        knots = np.linspace(-PATCH_SCALE, PATCH_SCALE, len(heights))
        expected = np.rint(np.interp(values, knots, heights)).astype(int)
        steps = np.diff(expected)
        assert (steps >= 0).all() or (steps <= 0).all()
        assert {expected[0], expected[-1]} == {-PATCH_SCALE, PATCH_SCALE}
        inverted += expected[0] > 0
        many, few = values.copy(), values[::7].copy()
        apply_curve(heights, many)
        apply_curve(heights, few)
        assert np.array_equal(many, expected)
        assert np.array_equal(few, expected[::7])
    assert 10 < inverted < 30


def test_a_pair_of_one_series_does_not_depend_on_whether_there_is_another() -> None:
    some = dataclasses.replace(OTHER, other_series_share=0.5, same_place_share=0.7, random_contrast=0.3)
    with_other, alone = (scene_of(CT, other, some, 7, "scan") for other in (MR, None))
    compared = 0
    for key in KEYS:
        pair, lone = (draw_training_pair(scene, some, 4, 7, key) for scene in (with_other, alone))
        if pair.scans[0] is pair.scans[1]:
            compared += 1
            assert all(
                np.array_equal(a.positions_mm, b.positions_mm) for a, b in zip(pair.views, lone.views, strict=True)
            )
            assert all(np.array_equal(a.center_mm, b.center_mm) for a, b in zip(pair.views, lone.views, strict=True))
    assert 20 < compared < 60


def test_a_changed_scene_is_kept_for_its_epoch_alone() -> None:
    scene = scene_of(CT, MR, STRETCHED, 7, "scan")
    first, again, other = (
        draw_training_pair(scene, STRETCHED, 4, 7, key).scans
        for key in (VisitKey("scan", 0, 0), VisitKey("scan", 0, 1), VisitKey("scan", 1, 0))
    )
    assert {id(scan) for scan in first} == {id(scan) for scan in again}, "its geometry is computed once"
    assert not {id(scan) for scan in first} & {id(scan) for scan in other}
