"""Copy scans into another pose, with the points of a table: ``prism tilt CATALOG --points TABLE``.

Each patient is turned about an axis of its own and moved, as if it had lain otherwise in the scanner: the voxels are
interpolated onto the axes of the scan. The anatomy is the same, and its position tells less.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import itertools
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl
from rich.console import Console
from scipy.ndimage import affine_transform
from scipy.spatial.transform import Rotation

from prism_ssl.cli.catalog_options import EVERY_SCAN, EXIT_NO, EXIT_OK, add_catalog_options, catalog_settings, refused
from prism_ssl.config.schema import DataConfig, PrismConfig
from prism_ssl.contracts import Float64, ScanRecord
from prism_ssl.data.catalog import column_values, load_records
from prism_ssl.data.checks import inspect_and_open
from prism_ssl.data.scan import OpenScan, apply_affine, inverse, nifti_bytes
from prism_ssl.embed.field.places import PointsRequest
from prism_ssl.embed.field.requests import IN_MM, IN_VOXELS, read_points, read_table
from prism_ssl.errors import ConfigError, PrismError, ScanRejected
from prism_ssl.utils.fs import private_folder, write_atomic
from prism_ssl.utils.stop_signals import stop_signals_interrupt

CATALOG, POINTS = "catalog.csv", "points.csv"
"""Tables in the folder of copies."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the copies, their catalogue and their points; 0 when there are copies, else as ``catalog_options`` says."""
    given = _parser().parse_args(list(sys.argv[1:] if arguments is None else arguments))
    with stop_signals_interrupt():
        try:
            if not (0 <= given.degrees <= 180 and 0 <= given.shift < np.inf):
                found = f"--degrees is {given.degrees:g} and --shift {given.shift:g}"
                raise ConfigError(f"{found}; needed: 0 to 180 degrees, and 0 mm or more")
            return _write(given, catalog_settings(given), Console())
        except (PrismError, OSError) as error:
            return refused(error)
        except KeyboardInterrupt:
            Console(stderr=True).print("interrupted; no copies were kept", style="yellow")
            return EXIT_NO


def _write(given: argparse.Namespace, data: DataConfig, console: Console) -> int:
    source, out = Path(given.points), Path(given.out).resolve()
    _refuse_used(out, Path(str(data.catalog_path)).resolve())
    asked, table = read_points(source, data), _flat(read_table(source))
    records = [each for each in load_records(data, data.selection_seed).records if each.scan_id in asked.rows_of]
    patients = column_values(data, records, data.columns.get("pmbb_id", "pmbb_id"))
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"{out.name}.part-", dir=out.parent) as part:  # whole, or not there
        folder = private_folder(Path(part) / "copies")
        copies, points, rejected = _copies(given, asked, table, records, patients, folder, console)
        if copies:
            write_atomic(folder / CATALOG, pl.from_dicts(copies).write_csv().encode())
            write_atomic(folder / POINTS, pl.concat(points).write_csv().encode())
            folder.replace(out)
    told = f"{out}: {len(copies)} scans turned by {given.degrees:g} degrees, with {sum(map(len, points))} points"
    console.print(told, markup=False, soft_wrap=True)
    for why, count in rejected.items():
        console.print(f"{count} scans left out: {why}", markup=False)
    return EXIT_OK if copies else EXIT_NO


def _copies(
    given: argparse.Namespace,
    asked: PointsRequest,
    table: pl.DataFrame,
    records: Sequence[ScanRecord],
    patients: Mapping[str, str],
    folder: Path,
    console: Console,
) -> tuple[list[dict[str, str]], list[pl.DataFrame], Counter[str]]:
    """Write the copies; their rows of the catalogue, their points, and why scans were left out."""
    copies, points, rejected = list[dict[str, str]](), list[pl.DataFrame](), Counter[str]()
    motions: dict[str, Float64] = {}  # one for all series of a patient, which share a frame
    for number, record in enumerate(records, start=1):
        rows, at = asked.rows_of[record.scan_id]
        try:
            scan = inspect_and_open(record.nifti_path, record.modality, PrismConfig())[1]
        except ScanRejected as error:
            rejected[error.reason] += 1
            continue
        at_mm = apply_affine(scan.affine, at) if asked.in_voxels else at
        motion = motions.setdefault(
            record.subject_id,
            pose(f"{given.seed} {record.subject_id}", at_mm.mean(axis=0), given.degrees, given.shift),
        )
        name = f"tilted-{record.scan_id}"
        _save(turned(scan, motion), folder / name)
        of = {"copy_of": record.series_path, "copy_of_scan": record.scan_id}
        who = {"pmbb_id": patients[record.scan_id], "modality": record.modality}
        copies.append(who | {"series_path": name} | of)
        points.append(_at(table[rows.tolist()], apply_affine(motion, at_mm), name))
        console.print(f"{number} of {len(records)}: {record.series_path}", markup=False, soft_wrap=True)
    return copies, points, rejected


def _refuse_used(out: Path, catalog: Path) -> None:
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise ConfigError(f"--out {out} is there already; needed: the name of a new folder for the copies")
    if catalog.is_dir() and out.is_relative_to(catalog):
        raise ConfigError(
            f"--out {out} lies in the archive {catalog}, which has no table, so the copies would count as its scans; "
            "needed: a folder elsewhere"
        )


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


def turned(scan: OpenScan, motion: Float64) -> OpenScan:
    """The scan after ``motion`` [4, 4] in RAS mm, on axes and spacing of its own, on a grid that holds all of it.

    Linear interpolation of the raw voxels; what lies outside the scan has its lowest value.
    """
    ends = np.array(scan.shape) - 1.0
    corners = np.array(list(itertools.product(*((0.0, end) for end in ends))))
    there = apply_affine(inverse(scan.affine) @ motion @ scan.affine, corners).round(6)
    low, high = np.floor(there.min(axis=0)), np.ceil(there.max(axis=0))
    affine = scan.affine.copy()
    affine[:3, 3] = apply_affine(scan.affine, low[None])[0]
    back = (inverse(scan.affine) @ inverse(motion) @ affine).round(12)  # (i, j, k) of the copy -> of the scan
    outside = (scan.stats.lowest - scan.intercept) / scan.slope
    values = affine_transform(
        scan.voxels.astype(np.float32),
        back[2::-1, 2::-1],  # voxels are [k, j, i]
        back[2::-1, 3],
        output_shape=tuple(int(count) for count in (high - low + 1)[::-1]),
        order=1,
        cval=outside,
    )
    kind = scan.voxels.dtype
    voxels = values.astype(kind) if kind.kind == "f" else np.rint(values).astype(kind)
    return OpenScan(voxels, scan.slope, scan.intercept, affine, scan.stats)


def _save(scan: OpenScan, folder: Path) -> None:
    folder.mkdir()
    content = nifti_bytes(scan.voxels, scan.affine, scan.slope, scan.intercept)
    write_atomic(folder / "scan.nii.gz", gzip.compress(content, 1, mtime=0))


def _flat(table: pl.DataFrame) -> pl.DataFrame:
    """Without columns that a .csv cannot hold, such as the embeddings of ``prism field``."""
    return table.select(name for name, kind in table.schema.items() if not (kind.is_nested() or kind == pl.Binary))


def _at(rows: pl.DataFrame, points_mm: Float64, name: str) -> pl.DataFrame:
    """The rows, with the places of their points in the copy."""
    kept = rows.drop("scan_id", *IN_MM, *IN_VOXELS, strict=False)
    columns = [pl.Series(axis, points_mm[:, number]) for number, axis in enumerate(IN_MM)]
    return kept.with_columns(pl.lit(name).alias("series_path"), *columns)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="prism tilt",
        description="Copy the scans of a table of points into a folder, each patient turned about an axis of its own, "
        "as if it had lain otherwise in the scanner; the points move along. How many landmarks are found there (prism "
        "field --points, prism probe --landmarks) says how far an encoder depends on the usual pose.",
    )
    add_catalog_options(parser, n_scans=EVERY_SCAN)
    points = "table of points (.csv, .parquet), as prism landmarks writes it and prism field --points reads it"
    parser.add_argument("--points", required=True, metavar="TABLE", help=points)
    degrees = "how far every patient is turned (default: 25)"
    parser.add_argument("--degrees", type=float, default=25.0, metavar="DEG", help=degrees)
    shift = "most that it is moved along each axis (default: 25)"
    parser.add_argument("--shift", type=float, default=25.0, metavar="MM", help=shift)
    parser.add_argument("--seed", type=int, default=0, help="of the axes and shifts (default: 0)")
    out = "a new folder for the copies, catalog.csv and points.csv (default: tilted)"
    parser.add_argument("--out", default="tilted", help=out)
    return parser


if __name__ == "__main__":
    sys.exit(main())
