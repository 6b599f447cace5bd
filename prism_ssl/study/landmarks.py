"""Write landmarks of scans, found by registering a reference to each of them: ``prism landmarks CATALOG``."""

from __future__ import annotations

if __name__ == "__main__":  # before all other imports, which take seconds
    from prism_ssl.utils.stop_signals import leave_on_stop_signals

    leave_on_stop_signals()

import argparse
import io
import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from rich.console import Console

from prism_ssl.cli.catalog_options import EVERY_SCAN, EXIT_NO, EXIT_OK, add_catalog_options, catalog_settings, refused
from prism_ssl.config.schema import DataConfig, PrismConfig
from prism_ssl.contracts import Float64, ScanRecord
from prism_ssl.data.catalog import column_values, load_records
from prism_ssl.data.checks import file_signature, inspect_and_open
from prism_ssl.data.holdout import listed_patients
from prism_ssl.data.scan import OpenScan
from prism_ssl.data.views import bounds_mm, on_body
from prism_ssl.errors import ConfigError, PrismError, ScanRejected
from prism_ssl.study.registration import carry_points, registration_is_here
from prism_ssl.utils.fs import private_folder, write_atomic
from prism_ssl.utils.hashing import content_hash
from prism_ssl.utils.stop_signals import EXIT_INTERRUPTED, leave, stop_signals_interrupt

COLUMNS = ("scan_id", "series_path", "landmark", "x_mm", "y_mm", "z_mm")
_FORMAT = 1  # of the parts


@dataclass(frozen=True, eq=False)
class Routes:
    """The reference and its landmarks [M, 3]; with a second scan, whose landmarks came from the reference, too."""

    reference: OpenScan
    points_mm: Float64
    second: OpenScan | None
    second_mm: Float64 | None
    signed: tuple[str, ...]
    """What changes with their files."""

    def landmarks(self, scan: OpenScan) -> tuple[Float64, Float64 | None]:
        """Places [M, 3] of the landmarks in a scan, and how far the two routes to each differ [M], if there are two."""
        found = carry_points(self.points_mm, self.reference, scan)
        if self.second is None or self.second_mm is None:
            return found, None
        return found, np.linalg.norm(found - carry_points(self.second_mm, self.second, scan), axis=1)


def main(arguments: Sequence[str] | None = None) -> int:
    """Register what is not registered yet and write the table; 0 when it holds landmarks of two scans, 75 when
    interrupted, else as ``catalog_options`` says."""
    given = _parser().parse_args(list(sys.argv[1:] if arguments is None else arguments))
    if not registration_is_here():
        return refused(ConfigError("SimpleITK is not installed; needed: pip install -e '.[registration]' in the clone"))
    with stop_signals_interrupt():
        try:
            _refuse_odd_numbers(given)
            return _write(given, catalog_settings(given), Console())
        except (PrismError, OSError) as error:
            return refused(error)
        except KeyboardInterrupt:
            Console(stderr=True).print("interrupted; run the same command again to go on", style="yellow")
            return EXIT_INTERRUPTED


def _refuse_odd_numbers(given: argparse.Namespace) -> None:
    if not (given.spacing >= 1 and given.depth >= 0 and given.agree > 0):
        found = f"--spacing is {given.spacing:g}, --depth {given.depth:g} and --agree {given.agree:g}"
        raise ConfigError(f"{found}; needed: 1 mm or more, 0 or more, and above 0")
    if not given.out.endswith(".csv"):
        raise ConfigError(f"--out is {given.out}; needed: a name that ends with .csv")


def _write(given: argparse.Namespace, data: DataConfig, console: Console) -> int:
    every, out = load_records(data, data.selection_seed).records, Path(given.out).absolute()
    records = _chosen(given, data, every)
    routes = _routes(given, every)
    stamp = content_hash([_FORMAT, given.spacing, given.depth, *routes.signed])
    parts = private_folder(out.with_name(f"{out.name}.parts-{stamp[:8]}"))
    found, rejected = list[pl.DataFrame](), Counter[str]()
    for number, record in enumerate(records, start=1):
        part = parts / f"{record.scan_id}-{_signed(record)}.parquet"
        try:
            if not part.is_file():
                scan = _open(record)
                _keep(part, record, scan, *routes.landmarks(scan))
        except (ScanRejected, RuntimeError) as error:  # SimpleITK raises RuntimeError
            rejected[getattr(error, "reason", "registration_failed")] += 1
            continue
        found.append(pl.read_parquet(part))
        console.print(f"{number} of {len(records)}: {record.series_path}", markup=False, soft_wrap=True)
    code = _report(found, given, out, console)
    for why, count in rejected.items():
        console.print(f"{count} scans without landmarks: {why}", markup=False)
    if code == EXIT_OK and not rejected:  # else the next call goes on from them
        shutil.rmtree(parts)
    return code


def _report(found: Sequence[pl.DataFrame], given: argparse.Namespace, out: Path, console: Console) -> int:
    """Write the landmarks of all scans and say how many there are; the exit code."""
    if not found:
        out.unlink(missing_ok=True)  # of an earlier call
        return EXIT_NO
    every = pl.concat(found)
    kept = every.filter(pl.col("on_body") & (pl.col("apart_mm").fill_null(0.0) <= given.agree))
    write_atomic(out, kept.select(COLUMNS).write_csv().encode())
    scans = kept["scan_id"].n_unique()
    told = f"{out}: {kept.height} landmarks in {scans} scans; {every.height - kept.height} left out"
    console.print(told, markup=False, soft_wrap=True)
    if given.second:
        half, most = (every["apart_mm"].quantile(share) for share in (0.5, 0.95))
        console.print(f"the two routes differ by {half:.1f} mm (median) and {most:.1f} mm (95th percentile)")
    return EXIT_OK if scans > 1 else EXIT_NO


def _chosen(given: argparse.Namespace, data: DataConfig, records: list[ScanRecord]) -> list[ScanRecord]:
    for pair in given.where:
        column, _, wanted = pair.partition("=")
        if not column or not wanted:
            raise ConfigError(f"--where {pair!r} has no meaning; needed: COLUMN=VALUE, such as body_part=brain")
        values = column_values(data, records, column)
        records = [record for record in records if values[record.scan_id] == wanted]
        if not records:
            known = ", ".join(sorted({value for value in values.values() if value})[:8])
            raise ConfigError(f"--where {pair!r} leaves no scan; found in column {column}: {known or 'nothing'}")
    if given.patients is not None:
        patients = listed_patients(Path(given.patients))
        records = [record for record in records if record.subject_id in patients]
    if len(records) < 2:
        raise ConfigError(f"{len(records)} scans were chosen; needed: two or more of one part of the body")
    return records


def _routes(given: argparse.Namespace, records: Sequence[ScanRecord]) -> Routes:
    chosen = [_named(name, records) for name in (given.reference, given.second) if name is not None]
    try:
        reference, *others = [_open(record) for record in chosen]
        points = lattice_points(reference, given.spacing, given.depth)
        second = others[0] if others else None
        second_mm = None if second is None else carry_points(points, reference, second)
    except (ScanRejected, RuntimeError) as error:  # SimpleITK raises RuntimeError
        raise ConfigError(f"{' or '.join(record.series_path for record in chosen)} cannot be used: {error}") from error
    if len(points) < 2:
        found = f"{given.reference} has {len(points)} points of a lattice of {given.spacing:g} mm"
        raise ConfigError(
            f"{found}, {given.depth:g} mm within the body; needed: two; ask for less --spacing or --depth"
        )
    return Routes(reference, points, second, second_mm, tuple(_signed(record) for record in chosen))


def _named(name: str, records: Sequence[ScanRecord]) -> ScanRecord:
    found = [record for record in records if name.rstrip("/") in (record.series_path, record.scan_id)]
    if len(found) != 1:
        raise ConfigError(
            f"{name!r} names {len(found)} of the {len(records)} scans that the options leave of the table; needed: the "
            "series_path or scan_id of one"
        )
    return found[0]


def _signed(record: ScanRecord) -> str:
    """Changes with the file of a scan."""
    return content_hash([record.nifti_path, *(str(part) for part in file_signature(record.nifti_path))])[:12]


def lattice_points(scan: OpenScan, step_mm: float, depth_mm: float) -> Float64:
    """Points [M, 3] of an upright lattice in RAS, on the body and ``depth_mm`` within it."""
    low, high = bounds_mm(scan)
    axes = [np.arange(a + (b - a) % step_mm / 2, b, step_mm) for a, b in zip(low, high, strict=True)]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    around = depth_mm * np.concatenate([np.zeros((1, 3)), np.eye(3), -np.eye(3)])
    within = [on_body(scan, points + shift) for shift in around]
    inside: Float64 = points[np.all(within, axis=0)]
    return inside


def _open(record: ScanRecord) -> OpenScan:
    return inspect_and_open(record.nifti_path, record.modality, PrismConfig())[1]


def _keep(part: Path, record: ScanRecord, scan: OpenScan, points_mm: Float64, apart_mm: Float64 | None) -> None:
    columns = {axis: points_mm[:, number] for number, axis in enumerate(("x_mm", "y_mm", "z_mm"))}
    table = pl.DataFrame(
        {
            "scan_id": [record.scan_id] * len(points_mm),
            "series_path": [record.series_path] * len(points_mm),
            "landmark": [f"L{number:04}" for number in range(len(points_mm))],
            **columns,
            "on_body": on_body(scan, points_mm),
            "apart_mm": [None] * len(points_mm) if apart_mm is None else apart_mm,
        },
        schema_overrides={"apart_mm": pl.Float64},
    )
    file = io.BytesIO()
    table.write_parquet(file)
    write_atomic(part, file.getvalue())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="prism landmarks",
        description="Register a reference scan to every chosen scan, and write where the points of a lattice "
        "over the reference lie in each: a table for prism field --points and prism probe --landmarks. Run the same "
        "command again to go on.",
    )
    add_catalog_options(parser, n_scans=EVERY_SCAN)
    where = "only rows with this value, such as body_part=brain; may be repeated"
    parser.add_argument("--where", action="append", default=[], metavar="COLUMN=VALUE", help=where)
    patients = "only these patients, a line each: the held-out ones of a run (its data.holdout_file)"
    parser.add_argument("--patients", metavar="FILE", help=patients)
    parser.add_argument("--reference", required=True, metavar="SERIES", help="series_path or scan_id of the reference")
    second = "another scan by which the points travel too; those that arrive elsewhere are left out"
    parser.add_argument("--second", metavar="SERIES", help=second)
    parser.add_argument("--agree", type=float, default=5.0, metavar="MM", help="how far the two routes may differ")
    parser.add_argument("--spacing", type=float, default=20.0, metavar="MM", help="distance of the landmarks")
    parser.add_argument("--depth", type=float, default=6.0, metavar="MM", help="how far within the body they lie")
    parser.add_argument("--out", default="landmarks.csv", help="table to write")
    return parser


if __name__ == "__main__":
    leave(main())
