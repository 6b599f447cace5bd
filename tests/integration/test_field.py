"""Fields of an archive: the right numbers at the right places, no point twice, and no scan's death another's."""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import nibabel as nib
import numpy as np
import polars as pl
import pytest
import torch

from prism_ssl.config.defaults import phantom_cpu
from prism_ssl.contracts import Float32, Float64
from prism_ssl.data.catalog import load_records
from prism_ssl.data.scan import OpenScan, open_scan
from prism_ssl.embed.field import workers
from prism_ssl.embed.field.actor import FieldSettings, PointWorker
from prism_ssl.embed.field.encode import CHUNK_POINTS
from prism_ssl.embed.field.job import FieldReport, embed_points
from prism_ssl.embed.field.places import FieldRequest, MasksRequest, Request
from prism_ssl.embed.field.requests import read_points
from prism_ssl.embed.field.scan_field import field_file
from prism_ssl.model.backbone import build_encoder
from prism_ssl.model.export import save_encoder
from tests.support.broken_files import BrokenKind, write_broken
from tests.support.cli_runs import CliRun, run_to_end
from tests.support.position_encoder import (
    PixelMeanFiles,
    layout_shift,
    settings_for,
    write_scan,
    x_told,
    x_volume,
)
from tests.unit.embed.field.test_lattice import SCANS

pytestmark = pytest.mark.slow  # every job starts actors of its own; what they compute is in unit/embed/field

STEP_MM = 6.0
FIELD = FieldRequest(STEP_MM, 0.9, everywhere=True)
WORDS = {"spacing_mm": STEP_MM}


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Scans that are their own x coordinate, with axes of all kinds, and a truncated one in the middle."""
    rows = []
    for number, (name, (affine, shape)) in enumerate(SCANS.items()):
        folder = tmp_path / "scans" / name.replace(" ", "-")
        write_scan(folder, x_volume(affine, shape), affine)
        rows.append((f"patient-{number}", "MR", f"scans/{folder.name}"))
    write_broken(tmp_path / "scans" / "broken", BrokenKind.TRUNCATED_GZIP)
    rows.insert(2, ("patient-9", "MR", "scans/broken"))
    catalog = tmp_path / "catalog.csv"
    pl.DataFrame(rows, schema=["pmbb_id", "modality", "series_path"], orient="row").write_csv(catalog)
    return catalog


def settings(catalog: Path) -> FieldSettings:
    config = settings_for(catalog)
    lenient = dataclasses.replace(config.preflight, reject_signed_mr=False, require_agreement=False)
    return FieldSettings(dataclasses.replace(config, preflight=lenient), seed=0)


def run(archive: Path, request: Request = FIELD, words: dict[str, Any] = WORDS, name: str = "v.parquet") -> FieldReport:
    out = archive.parent / "out"
    out.mkdir(exist_ok=True)
    return embed_points(PixelMeanFiles(), 3, request, settings(archive), out / name, words)


def scan_ids(archive: Path) -> dict[str, str]:
    """Name of a scan's folder -> its id."""
    return {Path(r.series_path).name: r.scan_id for r in load_records(settings(archive).config.data, 0).records}


def opened(archive: Path, name: str) -> OpenScan:
    return open_scan(archive.parent / "scans" / name / f"{name}.nii")


def inner(scan: OpenScan, points_mm: Float64) -> np.ndarray:
    """Points whose whole view lies in the scan, so that no pixel is air."""
    index = points_mm @ scan.to_voxel[:3, :3].T + scan.to_voxel[:3, 3]
    room = np.minimum(index, np.array(scan.shape) - 1 - index) / np.linalg.norm(scan.to_voxel[:3, :3], axis=1)
    wide: np.ndarray = room.min(axis=1) > 15.0
    return wide


@pytest.mark.usefixtures("ray_local")
def test_a_field_opens_aligned_and_tells_where_it_is(archive: Path) -> None:
    report = run(archive)
    assert (report.rows, report.scans, dict(report.rejected)) == (4, 4, {"truncated_gzip": 1})
    ids, out = scan_ids(archive), archive.parent / "out"
    for name in ("plain", "thick-slices", "oblique", "sheared"):
        image: Any = nib.load(field_file(out, ids[name]))
        vectors, scan = np.asarray(image.dataobj), opened(archive, name)
        assert (vectors.shape[-1], str(vectors.dtype)) == (3, "float32")
        index = np.argwhere(vectors[..., 2] == 1)
        points = index @ image.affine[:3, :3].T + image.affine[:3, 3]
        assert len(points) == np.prod(vectors.shape[:3])  # everywhere
        whole = inner(scan, points)
        # the window of a scan that is its own coordinate cuts off its ends
        clear = whole & (np.abs(points[:, 0] - scan.stats.median) < 1.9 * scan.stats.std - 15)
        if name != "thick-slices":
            assert clear.sum() > 20
        found = x_told(scan, vectors[tuple(index[clear].T)])
        np.testing.assert_allclose(found, points[clear, 0] + 11.0 * layout_shift()[0], atol=0.05)
    table = pl.read_parquet(out / "v.parquet")
    assert (table["coverage"] >= 0.9).all()
    assert (table["points"] > 1).all()


@pytest.mark.usefixtures("ray_local")
def test_a_point_of_a_table_has_the_bits_of_the_field(archive: Path, tmp_path: Path) -> None:
    run(archive)
    name, out = "oblique", archive.parent / "out"
    scan_id, scan = scan_ids(archive)[name], opened(archive, name)
    image: Any = nib.load(field_file(out, scan_id))
    index = np.argwhere(np.asarray(image.dataobj)[..., 2] == 1)[::97]
    points = index @ image.affine[:3, :3].T + image.affine[:3, 3]
    wanted = np.asarray(image.dataobj)[tuple(index.T)]
    voxels = points @ scan.to_voxel[:3, :3].T + scan.to_voxel[:3, 3]
    for axes, at, key in (("x_mm y_mm z_mm", points.round(3), "scan_id"), ("i j k", voxels.round(5), "series_path")):
        named = scan_id if key == "scan_id" else f"scans/{name}"
        table = pl.DataFrame(at, schema=axes.split()).with_columns(pl.lit(named).alias(key))
        outside = table.head(1).with_columns(pl.col(axes.split()[0]) + 1e4)
        pl.concat([outside, table]).write_csv(tmp_path / "points.csv")
        request = read_points(tmp_path / "points.csv", settings(archive).config.data)
        report = run(archive, request, {"points": axes}, f"{key}.parquet")
        assert (report.rows, report.scans) == (len(points), 1)
        found = pl.read_parquet(out / f"{key}.parquet").sort("row")
        assert found["row"].to_list() == list(range(1, len(points) + 1))
        assert np.array_equal(found["embedding"].to_numpy(), wanted)
        assert np.array_equal(found.select("x_mm", "y_mm", "z_mm").to_numpy(), points)


@pytest.mark.usefixtures("ray_local")
def test_each_label_gets_the_mean_of_its_points(archive: Path, tmp_path: Path) -> None:
    run(archive)
    name, out = "oblique", archive.parent / "out"
    scan_id, scan = scan_ids(archive)[name], opened(archive, name)
    labels = np.zeros(scan.voxels.shape, np.uint8)
    labels[10:20, 30:60, 30:60] = 7
    labels[3, 5, 5] = 9  # between the points of the lattice
    write_scan(tmp_path / "masks" / "scans" / name, labels, scan.affine)
    report = run(archive, MasksRequest(str(tmp_path / "masks"), STEP_MM), {"masks": 1}, "m.parquet")
    assert (report.rows, report.rejected["no_mask"]) == (2, 4)
    rows = {row["label"]: row for row in pl.read_parquet(out / "m.parquet").iter_rows(named=True)}
    image: Any = nib.load(field_file(out, scan_id))
    vectors = np.asarray(image.dataobj)
    index = np.argwhere(np.ones(vectors.shape[:3], bool))
    voxel = (index @ image.affine[:3, :3].T + image.affine[:3, 3]) @ scan.to_voxel[:3, :3].T + scan.to_voxel[:3, 3]
    i, j, k = np.rint(voxel).astype(int).T
    within = labels[k, j, i] == 7
    assert rows[7]["points"] == within.sum() > 10
    np.testing.assert_allclose(rows[7]["embedding"], vectors[tuple(index[within].T)].mean(axis=0), rtol=1e-5)
    assert (rows[9]["points"], rows[9]["embedding"][2]) == (1, 1.0)


class _DiesOnce(PointWorker):
    """Dies after its second chunk, the first time that a scan of the archive is asked for."""

    def vectors(self, record: Any, points_mm: Float64, chunks: Any) -> Iterator[Float32]:
        folder = Path(self._settings.config.data.catalog_path or "").parent
        with (folder / f"{record.scan_id}.asked").open("a") as log:
            log.write("".join(f"{chunk}\n" for chunk in chunks))
        first = not (folder / "died").exists()
        for number, found in enumerate(super().vectors(record, points_mm, chunks)):
            if first and number == 2:
                (folder / "died").touch()
                os.kill(os.getpid(), signal.SIGKILL)
            yield found


class _GpuBreaksOnce(PointWorker):
    """Its GPU breaks before the third chunk of the first scan that is asked for."""

    def vectors(self, record: Any, points_mm: Float64, chunks: Any) -> Iterator[Float32]:
        folder, encode = Path(self._settings.config.data.catalog_path or "").parent, self._encode
        with (folder / f"{record.scan_id}.asked").open("a") as log:
            log.write("".join(f"{chunk}\n" for chunk in chunks))

        def breaking(scan: OpenScan, wanted_mm: Float64) -> Iterator[Float32]:
            for number, found in enumerate(encode(scan, wanted_mm)):
                if number == 2 and not (folder / "died").exists():
                    (folder / "died").touch()
                    raise torch.AcceleratorError("CUDA error: uncorrectable ECC error encountered")
                yield found

        self._encode = cast(Any, breaking)
        yield from super().vectors(record, points_mm, chunks)


@pytest.mark.usefixtures("ray_local")
@pytest.mark.parametrize("dies", [_DiesOnce, _GpuBreaksOnce])
def test_an_actor_that_dies_costs_no_scan_and_no_chunk(
    archive: Path, monkeypatch: pytest.MonkeyPatch, dies: type[PointWorker]
) -> None:
    monkeypatch.setattr(workers, "PointWorker", dies)
    report = run(archive, FieldRequest(2.5, 0.5, everywhere=True))
    assert (report.rows, dict(report.rejected)) == (4, {"truncated_gzip": 1})
    asked = [file.read_text().split() for file in archive.parent.glob("*.asked")]
    again = next(chunks for chunks in asked if len(chunks) > len(set(chunks)))
    whole = len(set(again))
    assert 2 * whole - len(again) >= 1  # chunks that were taken before the death are not asked for again
    assert report.reused == 0
    assert run(archive, FieldRequest(2.5, 0.5, everywhere=True)).reused == 5


@pytest.mark.usefixtures("ray_local")
def test_a_field_whose_scan_or_file_changed_is_made_again(archive: Path) -> None:
    run(archive)
    ids, out = scan_ids(archive), archive.parent / "out"
    field_file(out, ids["plain"]).unlink()
    changed = archive.parent / "scans" / "oblique" / "oblique.nii"
    os.utime(changed, ns=(0, 0))
    report = run(archive)
    assert (report.scans, report.reused, report.rows) == (2, 3, 4)
    assert field_file(out, ids["plain"]).is_file()


def test_a_killed_command_computes_no_kept_point_again(phantom_catalog: Path, tmp_path: Path) -> None:
    torch.manual_seed(5)
    description = {"preset": "tiny", "n_patches": 16, "patch_mm": 16.0, "config": phantom_cpu().to_dict()}
    save_encoder(build_encoder("tiny"), tmp_path, description)
    places = [str(phantom_catalog), "--checkpoint", str(tmp_path), "--n-scans", "1", "--tmp-root", str(tmp_path / "t")]

    def line(out: str) -> list[str]:
        field = ["--spacing", "6", "--out", str(tmp_path / out)]
        return [sys.executable, "-m", "prism_ssl.embed.field.command", *places, *field]

    run = CliRun(line("killed"))
    while kept(tmp_path / "killed") < 2 * CHUNK_POINTS:  # the run's own limit is the test's
        assert run.running or run.finish() == 0, run.output
        assert not list((tmp_path / "killed").glob("*.nii.gz")), "it ended before it could be killed"
        run.descendants()
    run.kill()
    run.finish()
    before = kept(tmp_path / "killed")
    assert list((tmp_path / "killed").glob("*.nii.gz")) == []
    code, output = run_to_end(line("killed"))
    assert code == 0, output
    code, whole = run_to_end(line("whole"))
    assert points_told(output) + before == points_told(whole)
    (a,), (b,) = ((tmp_path / out).glob("*.nii.gz") for out in ("killed", "whole"))
    assert a.read_bytes() == b.read_bytes()


def kept(out: Path) -> int:
    """Points in the chunks of an unfinished job."""
    sums = [np.fromfile(file, np.uint32) for file in out.glob(".*.parts/*/done.u32")]
    return sum(int((each != 0).sum()) * CHUNK_POINTS for each in sums)


def points_told(output: str) -> int:
    return int(output.split(" points of ")[0].split()[-1])
