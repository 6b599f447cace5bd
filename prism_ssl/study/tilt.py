"""Copy scans into another pose, with the points of a table: ``prism tilt CATALOG --points TABLE``.

Every copy has the voxels of its scan, and an affine that is turned about the middle of its points. The anatomy is the
same, and where it lies says less: a method that knows only the usual pose fails there.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
from rich.console import Console
from scipy.spatial.transform import Rotation

from prism_ssl.cli.catalog_options import EVERY_SCAN, EXIT_NO, EXIT_OK, add_catalog_options, catalog_settings, refused
from prism_ssl.config.schema import DataConfig, PrismConfig
from prism_ssl.contracts import Float64, ScanRecord
from prism_ssl.data.catalog import load_records
from prism_ssl.data.checks import inspect_and_open
from prism_ssl.data.scan import OpenScan, apply_affine, nifti_bytes
from prism_ssl.embed.field.requests import IN_MM, IN_VOXELS, read_points, read_table
from prism_ssl.errors import ConfigError, PrismError, ScanRejected
from prism_ssl.utils.fs import private_folder, write_atomic

CATALOG, POINTS = "catalog.csv", "points.csv"
"""Tables in the folder of copies."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the copies, their catalogue and their points; 0 when there are copies, else as ``catalog_options`` says."""
    given = _parser().parse_args(list(sys.argv[1:] if arguments is None else arguments))
    try:
        if not (0 <= given.degrees <= 180 and 0 <= given.shift < np.inf):
            found = f"--degrees is {given.degrees:g} and --shift {given.shift:g}"
            raise ConfigError(f"{found}; needed: 0 to 180 degrees, and 0 mm or more")
        return _write(given, catalog_settings(given), Console())
    except (PrismError, OSError) as error:
        return refused(error)


def _write(given: argparse.Namespace, data: DataConfig, console: Console) -> int:
    source, folder = Path(given.points), Path(given.out).absolute()
    asked, table = read_points(source, data), read_table(source)
    by_id = {record.scan_id: record for record in load_records(data, data.selection_seed).records}
    if folder.is_dir() and any(folder.iterdir()):
        raise ConfigError(f"--out {folder} is not empty; needed: a new folder for the copies")
    private_folder(folder)
    copies, points, rejected = list[dict[str, str]](), list[pl.DataFrame](), Counter[str]()
    for scan_id, (rows, at) in asked.rows_of.items():
        record = by_id[scan_id]
        try:
            scan = inspect_and_open(record.nifti_path, record.modality, PrismConfig())[1]
        except ScanRejected as error:
            rejected[error.reason] += 1
            continue
        at_mm = apply_affine(scan.affine, at) if asked.in_voxels else at
        motion = pose(f"{given.seed} {scan_id}", at_mm.mean(axis=0), given.degrees, given.shift)
        copies.append(_copy(record, scan, motion, folder))
        points.append(_at(table[rows.tolist()], apply_affine(motion, at_mm), scan_id))
    if points:
        write_atomic(folder / CATALOG, pl.from_dicts(copies).write_csv().encode())
        write_atomic(folder / POINTS, pl.concat(points).write_csv().encode())
    told = f"{folder}: {len(copies)} scans turned by {given.degrees:g} degrees, with {sum(map(len, points))} points"
    console.print(told, markup=False, soft_wrap=True)
    for why, count in rejected.items():
        console.print(f"{count} scans left out: {why}", markup=False)
    return EXIT_OK if copies else EXIT_NO


def pose(key: str, middle_mm: Float64, degrees: float, shift_mm: float) -> Float64:
    """A motion [4, 4] in RAS mm: a turn about an axis through ``middle_mm`` [3], and a shift along each axis.

    Axis and shift follow from ``key`` alone; every direction of the axis is as likely, and every shift up to
    ``shift_mm`` to either side.
    """
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big"))
    axis = rng.normal(size=3)
    turn = Rotation.from_rotvec(np.deg2rad(degrees) * axis / np.linalg.norm(axis)).as_matrix()
    motion = np.eye(4)
    motion[:3, :3] = turn
    motion[:3, 3] = middle_mm - turn @ middle_mm + rng.uniform(-shift_mm, shift_mm, 3)
    return motion


def _copy(record: ScanRecord, scan: OpenScan, motion: Float64, folder: Path) -> dict[str, str]:
    """Writes one copy; its row of the catalogue."""
    voxels = nifti_bytes(scan.voxels, motion @ scan.affine, scan.slope, scan.intercept)
    own = folder / record.scan_id
    own.mkdir()
    write_atomic(own / "scan.nii.gz", gzip.compress(voxels, 1, mtime=0))
    return {
        "pmbb_id": record.subject_id,
        "modality": record.modality,
        "series_path": record.scan_id,
        "copy_of": record.series_path,
    }


def _at(rows: pl.DataFrame, points_mm: Float64, scan_id: str) -> pl.DataFrame:
    """Rows of a table of points, where their places lie in the copy."""
    kept = rows.drop("scan_id", *IN_MM, *IN_VOXELS, strict=False)
    columns = [pl.Series(axis, points_mm[:, number]) for number, axis in enumerate(IN_MM)]
    return kept.with_columns(pl.lit(scan_id).alias("series_path"), *columns)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="prism tilt",
        description="Copy the scans of a table of points into a folder, each turned about an axis of its own: the "
        "voxels stay, the affine changes, and the points move along. What finds landmarks there (prism field "
        "--points, prism probe --landmarks) does not live on the usual pose.",
    )
    add_catalog_options(parser, n_scans=EVERY_SCAN)
    points = "table of points (.csv, .parquet), as prism landmarks writes it and prism field --points reads it"
    parser.add_argument("--points", required=True, metavar="TABLE", help=points)
    parser.add_argument("--degrees", type=float, default=25.0, metavar="DEG", help="how far every scan is turned")
    parser.add_argument("--shift", type=float, default=25.0, metavar="MM", help="most that it is moved along each axis")
    parser.add_argument("--seed", type=int, default=0, help="of the axes and shifts")
    parser.add_argument("--out", default="tilted", help="a new folder for the copies, catalog.csv and points.csv")
    return parser


if __name__ == "__main__":
    sys.exit(main())
