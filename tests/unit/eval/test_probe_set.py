"""The same views whatever else a run does; a scan that does not open is said, not replaced."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from prism_ssl.contracts import PATCH_SCALE, PreparedScan
from prism_ssl.data.scan import open_scan
from prism_ssl.data.views import on_body as on_body_of
from prism_ssl.eval.probe_set import ProbeSet, build_probe_set
from tests.support.probe_sets import prepared_scans, small

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def scans(phantom_catalog: Path) -> list[PreparedScan]:
    return prepared_scans(phantom_catalog, 6)


def _same(one: ProbeSet, other: ProbeSet) -> bool:
    centers = [np.stack([view.center_mm for view in each.views]) for each in (one, other)]
    return (
        one.scans == other.scans
        and np.array_equal(one.patches, other.patches)
        and np.array_equal(centers[0], centers[1])
    )


def test_inputs_depend_on_nothing_that_differs_between_runs(scans: list[PreparedScan], phantom_catalog: Path) -> None:
    one = build_probe_set(scans, small(), phantom_catalog)
    other = small(
        train__batch_size=32, model__objective="classification", data__workers=4, train__seed=7, eval__batch_views=3,
        data__n_patches=16, eval__n_patches=8,
    )  # fmt: skip
    assert _same(one, build_probe_set(scans[::-1], other, phantom_catalog))
    assert not _same(one, build_probe_set(scans, small(eval__seed=1), phantom_catalog))


def test_a_smaller_probe_set_is_a_part_of_a_larger_one(scans: list[PreparedScan], phantom_catalog: Path) -> None:
    large = build_probe_set(scans, small(), phantom_catalog)
    part = build_probe_set(scans, small(eval__probe_scans=2, eval__views_per_scan=2), phantom_catalog)
    assert part.scans == large.scans[:2]
    assert np.array_equal(part.patches, large.patches[[0, 1, 4, 5]])
    assert part.scan_of_view.tolist() == [0, 0, 1, 1]


def test_views_on_the_foreground_leave_the_air_out(scans: list[PreparedScan], phantom_catalog: Path) -> None:
    def black(centers: str) -> float:
        patches = build_probe_set(scans, small(eval__centers=centers, eval__views_per_scan=8), phantom_catalog).patches
        return float((patches <= -0.98 * PATCH_SCALE).mean())

    on_body = small(eval__centers="foreground", eval__views_per_scan=8)
    for scan in (built := build_probe_set(scans, on_body, phantom_catalog)).scans:
        opened = open_scan(scan.nifti_path)
        views = [v for v, s in zip(built.views, built.scan_of_view, strict=True) if built.scans[s] == scan]
        assert on_body_of(opened, np.stack([view.center_mm for view in views])).all()
    assert black("foreground") < 0.7 * black("anywhere")


def test_a_scan_that_does_not_open_is_counted_and_left_out(
    scans: list[PreparedScan], phantom_catalog: Path, tmp_path: Path
) -> None:
    whole = build_probe_set(scans, small(), phantom_catalog)
    victim = whole.scans[1].scan_id
    gone = [
        dataclasses.replace(s, record=dataclasses.replace(s.record, nifti_path=str(tmp_path / "gone.nii.gz")))
        if s.record.scan_id == victim
        else s
        for s in scans
    ]
    left = build_probe_set(gone, small(), phantom_catalog)
    assert [broken.scan_id for broken in left.left_out] == [victim]
    assert "missing_path" in left.left_out[0].cause
    assert left.scans == [record for record in whole.scans if record.scan_id != victim]
    assert np.array_equal(left.patches, whole.patches[[*range(4), *range(8, 16)]])
    assert len(left.places) == len(left.views) == len(left.intensity_scale) == 12


def test_pairs_are_consecutive_views_of_one_scan(scans: list[PreparedScan], phantom_catalog: Path) -> None:
    probe_set = build_probe_set(scans, small(), phantom_catalog)
    assert probe_set.n_pairs == 8
    batch = probe_set.pairs(1, 4, CPU)
    for pair in (1, 2, 3):
        a, b = probe_set.views[2 * pair], probe_set.views[2 * pair + 1]
        row = pair - 1
        record = probe_set.scans[probe_set.scan_of_view[2 * pair]]
        assert batch.scan_id[row] == record.scan_id
        assert batch.center_delta_mm[row].numpy() == pytest.approx(b.center_mm - a.center_mm, rel=1e-5)
        assert batch.rotation_delta_deg[row].numpy() == pytest.approx(b.rotation_deg - a.rotation_deg, rel=1e-5)
        assert float(batch.window_delta[row, 1]) == pytest.approx(b.window_width - a.window_width, rel=1e-4)
        assert float(batch.intensity_scale[row]) == pytest.approx(probe_set.intensity_scale[2 * pair])
        assert np.array_equal(batch.positions_b[row].numpy(), b.positions_mm)
        patches = batch.patches_b[row, ..., 0].numpy() * PATCH_SCALE
        assert np.array_equal(np.rint(patches), probe_set.patches[2 * pair + 1])
    assert batch.patches_a.dtype == torch.float32


def test_places_are_known_on_phantoms_only(scans: list[PreparedScan], phantom_catalog: Path, tmp_path: Path) -> None:
    assert all(place is not None for place in build_probe_set(scans, small(), phantom_catalog).places)
    archive = build_probe_set(scans, small(), tmp_path / "catalog.csv")
    assert archive.places == [None] * 16
