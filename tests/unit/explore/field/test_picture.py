"""Pictures of fields: every colour lies where its point is, on one scale, and what is said is true."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.image import imread

from prism_ssl.config.defaults import phantom_cpu
from prism_ssl.contracts import Float64, PreparedScan, RobustStats, ScanRecord
from prism_ssl.data.catalog import load_records
from prism_ssl.data.scan import OpenScan, apply_affine, write_volume
from prism_ssl.embed.field.encode import PointEncoder
from prism_ssl.embed.field.lattice import lattice_over
from prism_ssl.embed.field.places import FieldRequest
from prism_ssl.embed.field.scan_field import ScanField, field_file
from prism_ssl.explore.field.command import main
from prism_ssl.explore.field.picture import Mark, Row, fields_figure
from prism_ssl.explore.field.shown_scan import ShownScan, embed_field, first_pair
from prism_ssl.inspect.view_panel import PLANES
from tests.support.position_encoder import PixelMean
from tests.unit.embed.field.test_lattice import SCANS

STEP_MM, CELL_MM = 8.0, 20.0


def shown(name: str) -> ShownScan:
    """A scan of zeros, and a field all over it."""
    affine, shape = SCANS[name]
    scan = OpenScan(np.zeros(shape[::-1], np.int16), 1.0, 0.0, affine, RobustStats(0.0, 0.0, 1.0))
    lattice = lattice_over(affine, shape, STEP_MM)
    index = np.stack(np.unravel_index(np.arange(np.prod(lattice.shape)), lattice.shape, order="F"), axis=-1)
    field = ScanField(lattice.affine, lattice.shape, index, np.ones((len(index), 2), np.float32))
    return ShownScan(ScanRecord("0123456789abcdef", "s", "MR", "", "", "p"), scan, field)


def row_of(one: ShownScan) -> Row:
    """Each point has its own place as its colour; a mark lies at the middle."""
    points = one.field.points_mm
    rgb = (points - points.min(axis=0)) / np.ptp(points, axis=0)
    return Row(one, one.middle_mm, rgb, (Mark(one.middle_mm, "#ffffff", "x"),), "heading")


def place_of(rgb: Float64, one: ShownScan) -> Float64:
    points = one.field.points_mm
    places: Float64 = points.min(axis=0) + rgb * np.ptp(points, axis=0)
    return places


@pytest.mark.parametrize("names", [("plain", "thick slices"), ("oblique",), ("sheared", "plain")])
def test_every_colour_lies_where_its_point_is_on_one_scale(names: tuple[str, ...]) -> None:
    rows = [row_of(shown(name)) for name in names]
    figure = fields_figure(rows, "legend")
    figure.canvas.draw()
    axes = [ax for part in figure.subfigs for ax in part.axes]
    assert len(axes) == 6 * len(names)
    scales = [
        pixels / abs(end - start)
        for ax in axes
        for pixels, (start, end) in ((ax.bbox.width, ax.get_xlim()), (ax.bbox.height, ax.get_ylim()))
    ]
    np.testing.assert_allclose(scales, scales[0], rtol=1e-3)  # pixels per mm
    for row, of_row in zip(rows, np.array(axes, object).reshape(len(names), 3, 2), strict=True):
        reach = np.abs(row.shown.field.affine[:3, :3]).sum(axis=1) / 2  # of a cell, along R, A, S
        for plane, (_, ax) in zip(PLANES, of_row, strict=True):
            image: Any = ax.images[-1]
            values = np.asarray(image.get_array(), float)
            left, right, bottom, top = image.get_extent()
            tall, wide = values.shape[:2]
            up, across = np.nonzero(values[..., 3] == 1)
            told = place_of(values[up, across, :3], row.shown)
            x, y = left + (across + 0.5) / wide * (right - left), bottom + (up + 0.5) / tall * (top - bottom)
            assert np.abs(told[:, plane.across] - x).max() < reach[plane.across] + 1.5
            assert np.abs(told[:, plane.up] - y).max() < reach[plane.up] + 1.5
            assert (right < left) == (plane.across_sign < 0)
            (mark,) = (line for line in ax.lines if line.get_marker() == "x")
            np.testing.assert_allclose(np.ravel(mark.get_xydata()), row.center_mm[[plane.across, plane.up]])


def prepared(*patients_and_modalities: str) -> list[PreparedScan]:
    return [
        PreparedScan(ScanRecord(f"{n}", "s", each[1:], "", "", each[0]), RobustStats(0, 0, 1), 1, (9, 9, 9), (1, 1, 1))
        for n, each in enumerate(patients_and_modalities)
    ]


@pytest.mark.parametrize(
    ("scans", "first", "other"),
    [
        (("aCT", "bMR", "bCT", "bMR"), 1, 2),
        (("aCT", "bMR", "cMR", "cMR"), 2, 3),
        (("aCT", "bCT"), 0, 1),
        (("aCT",), 0, 0),
    ],
)
def test_the_notebook_begins_with_two_modalities_of_one_patient(scans: tuple[str, ...], first: int, other: int) -> None:
    given = prepared(*scans)
    assert first_pair(given) == (given[first], given[other])


# ---------------------------------------------------------------------- the command
@dataclasses.dataclass
class Drawn:
    """A catalogue of phantoms, a folder of fields whose vectors tell their place, and what to draw of them."""

    catalog: Path
    fields: Path
    out: Path
    first: ScanRecord
    same_patient: ScanRecord
    other_patient: ScanRecord

    def __call__(self, *options: str) -> int:
        return main([str(self.catalog), "--fields", str(self.fields), "--out", str(self.out), *options])


@pytest.fixture(scope="module")
def drawn(phantom_catalog: Path, tmp_path_factory: pytest.TempPathFactory) -> Drawn:
    root = tmp_path_factory.mktemp("drawn")
    data = dataclasses.replace(phantom_cpu().data, catalog_path=str(phantom_catalog))
    records = {record.series_path: record for record in load_records(data, 0).records}
    first, same = (record for path, record in records.items() if "PH0000" in path)
    other = next(record for path, record in records.items() if "PH0002" in path)
    for record in (first, same, other):
        field = embed_field(record, PixelMean(), phantom_cpu(), CELL_MM).field
        vectors = np.zeros((*field.shape, 4), np.float32)
        vectors[tuple(field.index.T)] = np.c_[field.points_mm, np.full(len(field.index), 1000.0)]
        blocks = [vectors[..., axis].T[None] for axis in range(4)]
        write_volume(field_file(root, record.scan_id), field.affine, field.shape, 4, blocks)
    return Drawn(phantom_catalog, root, root / "p.png", first, same, other)


def test_a_place_is_found_in_another_series(drawn: Drawn, capsys: pytest.CaptureFixture[str]) -> None:
    both = ("--scan", drawn.first.scan_id, "--beside", drawn.same_patient.scan_id)
    assert drawn(*both) == 0
    colours = imread(drawn.out)
    assert drawn(*both, "--show", "similarity") == 0
    similarity = imread(drawn.out)
    assert colours.shape[1] == similarity.shape[1] == 1700
    assert colours[..., :3].std() > 0.1 < similarity[..., :3].std()
    said = capsys.readouterr().out
    off_mm = float(said.split(" mm from the true place")[0].split("; ")[-1])
    assert off_mm <= CELL_MM
    for private in (b"PH00", b"subjects", str(drawn.catalog.parent).encode()):
        assert private not in drawn.out.read_bytes()


def test_without_a_common_frame_no_true_place_is_told(drawn: Drawn, capsys: pytest.CaptureFixture[str]) -> None:
    both = ("--scan", drawn.first.scan_id, "--beside", drawn.other_patient.scan_id)
    assert drawn(*both, "--show", "similarity", "--at", "-9000", "0", "0") == 0
    said = capsys.readouterr().out
    assert "the true place is not known" in said
    assert "closest to R -9000, A 0, S 0 mm" in said


def test_what_cannot_be_drawn_is_told(drawn: Drawn, capsys: pytest.CaptureFixture[str]) -> None:
    for options, code, told in (
        (("--scan", "unknown"), 2, "no scan 'unknown' among the"),
        (("--scan", drawn.first.scan_id, "--at", "1", "nan", "2"), 2, "needed: three numbers, RAS mm"),
        (("--scan", drawn.first.scan_id, "--fields", str(drawn.catalog)), 1, "holds no field of scan"),
    ):
        assert drawn(*options) == code
        assert told in capsys.readouterr().err


def test_a_field_that_is_embedded_now_is_that_of_prism_field(phantom_catalog: Path) -> None:
    config = phantom_cpu()
    data = dataclasses.replace(config.data, catalog_path=str(phantom_catalog))
    record = load_records(data, 0).records[0]
    now = embed_field(record, PixelMean(), config, 30.0)
    places = FieldRequest(30.0, 0.9).places(now.scan, record, config.view)
    encode = PointEncoder(PixelMean(), config, 0, torch.device("cpu"), 1)
    assert np.array_equal(now.field.points_mm, places.points_mm)
    assert np.array_equal(now.field.vectors, np.concatenate(list(encode(now.scan, places.points_mm))))
    assert np.array_equal(apply_affine(now.field.affine, now.field.index), places.points_mm)
