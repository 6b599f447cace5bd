"""The points of a request are where they should be, and their rows say what they stand for."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import polars as pl
import pytest

from prism_ssl.config.schema import DataConfig, ViewConfig
from prism_ssl.contracts import RobustStats, ScanRecord
from prism_ssl.data.catalog import load_records
from prism_ssl.data.scan import OpenScan, open_scan
from prism_ssl.embed.field.actor import FieldSettings, PointWorker
from prism_ssl.embed.field.job import write_field
from prism_ssl.embed.field.places import FieldRequest, MasksRequest, Places, PointsRequest
from prism_ssl.embed.field.requests import read_points, request_for
from prism_ssl.errors import ConfigError, ScanRejected
from tests.support.position_encoder import PixelMeanFiles, layout_shift, settings_for, write_scan, x_scan, x_told
from tests.unit.embed.field.test_lattice import SCANS

VIEW = ViewConfig(radius_mm_min=10.0, radius_mm_max=12.0, radius_mm_floor=6.0)
RECORD = ScanRecord("scan", "series", "MR", "", "folder/series", "patient")


@pytest.mark.parametrize("name", SCANS)
def test_a_field_opens_aligned_and_tells_where_it_is(name: str, tmp_path: Path) -> None:
    affine, shape = SCANS[name]
    scan = x_scan(affine, shape)
    places = FieldRequest(5.0, 0.9, everywhere=True).places(scan, RECORD, VIEW)
    vectors = places.points_mm.astype(np.float32)  # each point's vector is where it is
    write_field(tmp_path / "f.nii.gz", places, vectors)
    write_field(tmp_path / "again.nii.gz", places, vectors)
    assert (tmp_path / "f.nii.gz").read_bytes() == (tmp_path / "again.nii.gz").read_bytes()
    image: Any = nib.load(tmp_path / "f.nii.gz")
    assert places.lattice is not None
    assert np.array_equal(image.affine, places.lattice.affine)
    axcodes: Any = nib.aff2axcodes
    assert axcodes(image.affine) == axcodes(affine)
    field = np.asarray(image.dataobj)
    index = np.argwhere(field.any(axis=-1))
    assert len(index) == len(places.points_mm) > 50
    at = index @ image.affine[:3, :3].T + image.affine[:3, 3]
    assert np.array_equal(field[tuple(index.T)], at)


def body_in_air() -> OpenScan:
    """A bright block of 60 x 40 x 40 mm in the middle of dark air."""
    voxels = np.zeros((60, 60, 80), np.float32)
    voxels[10:50, 10:50, 10:70] = 100.0
    return OpenScan(voxels, 1.0, 0.0, np.eye(4), RobustStats(0.0, 100.0, 5.0))


def test_a_field_leaves_the_air_out_and_its_covering_covers_the_body() -> None:
    scan = body_in_air()
    places = FieldRequest(4.0, 0.95).places(scan, RECORD, VIEW)
    outside = np.maximum([9.5, 9.5, 9.5] - places.points_mm, places.points_mm - [69.5, 49.5, 49.5]).max(axis=1)
    assert outside.max() < 4.0  # half of the 27 points about it lie in the block
    assert len(places.points_mm) == pytest.approx(60 * 40 * 40 / 4**3, rel=0.2)
    chosen = places.points_mm[places.chosen]
    distance = np.linalg.norm(places.points_mm[:, None] - chosen[None], axis=2).min(axis=1)
    assert (distance <= 11.0).mean() > 0.9
    assert places.share >= 0.95
    alone = FieldRequest(4.0, 0.95, keep_field=False).places(scan, RECORD, VIEW)
    assert np.array_equal(alone.points_mm, chosen)
    vectors = places.points_mm.astype(np.float32)
    (row,) = FieldRequest(4.0, 0.95).rows(places, vectors)
    (same,) = FieldRequest(4.0, 0.95, keep_field=False).rows(alone, alone.points_mm.astype(np.float32))
    assert np.array_equal(row["embedding"], same["embedding"])
    assert row["embedding"] == pytest.approx([39.5, 29.5, 29.5], abs=4.0)
    assert (row["points"], row["coverage"]) == (len(chosen), places.share)


def test_labels_are_met_by_the_lattice_or_by_their_middle(tmp_path: Path) -> None:
    scan = body_in_air()
    labels = np.zeros(scan.voxels.shape, np.uint8)
    labels[20:40, 20:40, 20:40] = 7
    labels[5, 13, 11] = 9
    write_scan(tmp_path / "folder" / "series", labels, scan.affine)
    request = MasksRequest(str(tmp_path), 4.0)
    places = request.places(scan, RECORD, VIEW)
    rows = {row["label"]: row for row in request.rows(places, places.points_mm.astype(np.float32))}
    assert rows[7]["points"] == 5**3
    assert rows[7]["embedding"] == pytest.approx([29.5] * 3, abs=2.0)
    assert (rows[9]["points"], rows[9]["embedding"].tolist()) == (1, [11.0, 13.0, 5.0])
    with pytest.raises(ScanRejected, match="no_mask"):
        request.places(scan, dataclasses.replace(RECORD, series_path="folder/other"), VIEW)
    write_scan(tmp_path / "folder" / "other", scan.voxels + 0.25, scan.affine)
    with pytest.raises(ScanRejected, match="needed: at most 1000 whole numbers"):
        request.places(scan, dataclasses.replace(RECORD, series_path="folder/other"), VIEW)


@pytest.fixture
def archive(tmp_path: Path) -> tuple[DataConfig, ScanRecord]:
    affine, shape = SCANS["oblique"]
    write_scan(tmp_path / "scans" / "oblique", x_scan(affine, shape).voxels, affine)
    pl.DataFrame({"pmbb_id": ["p"], "modality": ["MR"], "series_path": ["scans/oblique"]}).write_csv(tmp_path / "c.csv")
    data = DataConfig(catalog_path=str(tmp_path / "c.csv"))
    return data, load_records(data, 0).records[0]


def test_a_worker_gives_points_of_a_table_the_bits_of_the_field(
    archive: tuple[DataConfig, ScanRecord], tmp_path: Path
) -> None:
    data, record = archive
    config = settings_for(str(data.catalog_path))
    config = dataclasses.replace(config, preflight=dataclasses.replace(config.preflight, reject_signed_mr=False))
    field = PointWorker(PixelMeanFiles(), FieldRequest(6.0, 0.9, everywhere=True), FieldSettings(config, 0), 2)
    places = field.places(record)
    assert isinstance(places, Places)
    chunks = list(range(-(-len(places.points_mm) // 256)))
    vectors = np.concatenate(list(field.vectors(record, places.points_mm, chunks)))
    assert np.array_equal(np.concatenate(list(field.vectors(record, places.points_mm, chunks[1:]))), vectors[256:])

    some, scan = places.points_mm[::31], open_scan(record.nifti_path)
    voxels = some @ scan.to_voxel[:3, :3].T + scan.to_voxel[:3, 3]
    for axes, at, key in (("x_mm y_mm z_mm", some.round(3), "scan_id"), ("i j k", voxels.round(5), "series_path")):
        named = record.scan_id if key == "scan_id" else record.series_path
        table = pl.DataFrame(at, schema=axes.split()).with_columns(pl.lit(named).alias(key))
        outside = table.head(1).with_columns(pl.col(axes.split()[0]) + 1e4)
        pl.concat([outside, table]).write_csv(tmp_path / "points.csv")
        request = read_points(tmp_path / "points.csv", data)
        worker = PointWorker(PixelMeanFiles(), request, FieldSettings(config, 0), 1)
        found = worker.places(record)
        assert isinstance(found, Places)
        rows = request.rows(found, next(worker.vectors(record, found.points_mm, [0])))
        assert [row["row"] for row in rows] == list(range(1, len(some) + 1))  # the first lies outside
        assert np.array_equal([row["embedding"] for row in rows], vectors[::31])
    middle = np.abs(places.points_mm - places.points_mm.mean(axis=0)).max(axis=1) < 12
    told = x_told(scan, vectors[middle])
    assert np.corrcoef(told, places.points_mm[middle, 0])[0, 1] > 0.99
    assert layout_shift().shape == (3,)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("scan_id,x,y,z\na,1,2,3\n", "needed: scan_id or series_path, and x_mm, y_mm, z_mm"),
        ("series_path,i,j,k\nscans/other,1,2,3\n", "names 1 scans that the catalogue has no file of"),
        ("series_path,i,j,k\nscans/oblique,1,2,here\n", "a coordinate of data row 1 is no number"),
    ],
)
def test_a_table_of_points_that_means_nothing_is_refused(
    archive: tuple[DataConfig, ScanRecord], tmp_path: Path, text: str, told: str
) -> None:
    (tmp_path / "points.csv").write_text(text)
    with pytest.raises(ConfigError, match=told):
        read_points(tmp_path / "points.csv", archive[0])


def test_what_determines_a_request_is_told(archive: tuple[DataConfig, ScanRecord], tmp_path: Path) -> None:
    given = argparse.Namespace(points=None, masks=None, volume=False, everywhere=False, spacing=8.0, coverage=0.9)
    _, words = request_for(given, archive[0])
    given.spacing = 7.0
    assert request_for(given, archive[0])[1] != words
    points = tmp_path / "points.csv"
    points.write_text("series_path,i,j,k\nscans/oblique,1,2,3\n")
    given.points = str(points)
    request, words = request_for(given, archive[0])
    assert isinstance(request, PointsRequest)
    points.write_text("series_path,i,j,k\nscans/oblique,1,2,4\n")
    assert request_for(given, archive[0])[1] != words
