"""A catalogue of phantoms knows the organ at a point; any other knows nothing."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from prism_ssl.config.defaults import phantom_cpu
from prism_ssl.data.catalog import load_records
from prism_ssl.data.phantoms.anatomy import INTENSITY, Organ
from prism_ssl.data.phantoms.truth import phantom_truth
from prism_ssl.data.phantoms.writer import MARKER_FILE
from prism_ssl.data.scan.nifti import open_scan


def test_the_organ_at_a_point_is_the_one_whose_intensity_is_there(phantom_catalog: Path) -> None:
    truth = phantom_truth(phantom_catalog)
    assert truth is not None
    data = dataclasses.replace(phantom_cpu().data, catalog_path=str(phantom_catalog))
    record = next(r for r in load_records(data, seed=0).records if r.series_path.endswith("ct_body_3mm"))
    scan = open_scan(record.nifti_path)
    indices = np.random.default_rng(0).integers(0, scan.shape, (400, 3))
    values = scan.slope * scan.voxels[indices[:, 2], indices[:, 1], indices[:, 0]] + scan.intercept
    points_mm = indices @ scan.affine[:3, :3].T + scan.affine[:3, 3]
    places = truth.places(record, list(points_mm))
    assert places is not None
    assert {place.region for place in places} == {"trunk"}
    lungs = values[[place.organ is Organ.LUNG for place in places]]
    muscle = values[[place.organ is Organ.MUSCLE for place in places]]
    assert len(lungs) > 10
    assert len(muscle) > 10
    assert np.median(lungs) == np.clip(np.median(lungs), *np.add(INTENSITY[Organ.LUNG][0], (-30, 30)))
    assert np.median(muscle) == np.clip(np.median(muscle), *np.add(INTENSITY[Organ.MUSCLE][0], (-30, 30)))
    assert truth.places(dataclasses.replace(record, series_path="elsewhere"), list(points_mm)) is None


def test_an_archive_and_phantoms_of_another_version_know_nothing(tmp_path: Path) -> None:
    assert phantom_truth(tmp_path / "catalog.csv") is None
    (tmp_path / MARKER_FILE).write_text('{"version": -1, "n_subjects": 2, "seed": 0}')
    assert phantom_truth(tmp_path / "catalog.csv") is None
