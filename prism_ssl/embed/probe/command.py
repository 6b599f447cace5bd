"""Probe embeddings: ``prism probe CATALOG``, with ``--labels TABLE``, with ``--fields FOLDER --masks FOLDER``, or with
``--landmarks TABLE --points FOLDER``."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prism_ssl.cli.catalog_options import EVERY_SCAN, EXIT_NO, EXIT_OK, add_catalog_options, catalog_settings, refused
from prism_ssl.config.operations import EvalConfig
from prism_ssl.config.schema import DataConfig
from prism_ssl.data.catalog import load_records
from prism_ssl.embed.probe.column import in_words, plain, probe_table
from prism_ssl.embed.probe.compare import Found, compare
from prism_ssl.embed.probe.labels import read_encoders, read_tasks
from prism_ssl.embed.probe.landmarks import LandmarksFound, find_landmarks
from prism_ssl.embed.probe.page import words, write_page
from prism_ssl.embed.probe.segmentation import Segmented, masked_scans, segment
from prism_ssl.errors import ConfigError, PrismError


def main(arguments: Sequence[str] | None = None) -> int:
    """Probe, and print what was found; 0 when there is something to tell apart, else as ``catalog_options`` says."""
    given = _parser().parse_args(arguments)
    try:
        if given.labels is None and given.fields is None and given.landmarks is None and given.points is None:
            return _column(given)
        found, segmented, landmarks = _labels(given), _fields(given), _landmarks(given)
        page = write_page(Path(given.out).absolute(), found, segmented, landmarks)
    except (PrismError, OSError) as error:
        return refused(error)
    told = _plain({"labels": [dataclasses.asdict(each) for each in found], "masks": segmented, "landmarks": landmarks})
    lines = [*_lines(found, segmented), *_landmark_lines(landmarks), f"written to {page}"]
    text = json.dumps(told, indent=2) if given.json else "\n".join(lines)
    print(text)  # noqa: T201
    return EXIT_OK


def _column(given: argparse.Namespace) -> int:
    label = given.label or "modality"
    probed = probe_table(Path(given.embeddings), catalog_settings(given), label, given.k)
    print(json.dumps(plain(probed), indent=2) if given.json else in_words(probed))  # noqa: T201
    return EXIT_OK if math.isfinite(probed.score.linear) else EXIT_NO


def _labels(given: argparse.Namespace) -> list[Found]:
    if given.labels is None:
        return []
    encoders = read_encoders(Path(given.embeddings), _beside(given.beside))
    tasks = read_tasks(Path(given.labels), encoders, _catalog(given), given.label, given.kind)
    return [compare(task, encoders, EvalConfig()) for task in tasks]


def _fields(given: argparse.Namespace) -> Segmented | None:
    if given.fields is None:
        return None
    if given.masks is None:
        raise ConfigError("--fields is given without --masks; needed: a folder with a label volume for each scan")
    folders = {"embeddings": Path(given.fields)} | _beside(given.beside_fields)
    data = _catalog(given)
    paths = {record.scan_id: record.series_path for record in load_records(data, 0).records} if data else {}
    scans = masked_scans(list(folders.values()), Path(given.masks), paths)
    return segment(folders, scans, given.mask_label, EvalConfig())


def _landmarks(given: argparse.Namespace) -> LandmarksFound | None:
    if given.landmarks is None:
        if given.points is not None:
            raise ConfigError("--points is given without --landmarks; needed: the table that the points were made from")
        return None
    if given.points is None:
        raise ConfigError("--landmarks is given without --points; needed: the folder of prism field --points TABLE")
    folders = {"embeddings": Path(given.points)} | _beside(given.beside_points)
    return find_landmarks(Path(given.landmarks), folders)


def _catalog(given: argparse.Namespace) -> DataConfig | None:
    return None if given.table is None and given.catalog is None else catalog_settings(given)


def _beside(pairs: Sequence[str]) -> dict[str, Path]:
    """Name -> path of NAME=PATH."""
    if bad := [pair for pair in pairs if not all(pair.partition("=")) or pair.startswith("embeddings=")]:
        raise ConfigError(f"{bad[0]!r} names no other encoder; needed: NAME=PATH, such as random=random.parquet")
    return {name: Path(path) for name, _, path in (pair.partition("=") for pair in pairs)}


def _lines(found: Sequence[Found], segmented: Segmented | None) -> list[str]:
    lines = []
    for each in found:
        lines.append(
            f"{each.label}: {each.scans} scans of {each.patients} patients, {each.measure}, {each.chance:.2f} by chance"
        )
        for row in each.rows:
            better = f", embeddings better by {words(row.better, signed=True)}" if row.better else ""
            lines.append(f"  {row.encoder}: {words(row.score)}{better}")
    if segmented is not None:
        lines.append(f"masks: {segmented.points} points of {segmented.patients} patients, {segmented.within} within")
        lines += [f"  {row.encoder}: AUROC {words(row.auroc)}, Dice {words(row.dice)}" for row in segmented.rows]
    return lines


def _landmark_lines(found: LandmarksFound | None) -> list[str]:
    if found is None:
        return []
    lines = [
        f"{found.landmarks} landmarks in {found.scans} scans of {found.patients} patients, found in other patients: "
        f"recall@1, {found.chance:.2f} by chance; distance from the true place, {found.chance_mm:.0f} mm by chance"
    ]
    for row in found.rows:
        better = f", embeddings better by {words(row.better, signed=True)}" if row.better else ""
        lines.append(f"  {row.encoder}: {words(row.recall)}, {row.distance_mm.value:.0f} mm{better}")
    return lines


def _plain(value: Any) -> Any:
    """For JSON: dataclasses as tables, NaN as null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _plain(dataclasses.asdict(value))
    if isinstance(value, dict):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="prism probe",
        usage="prism probe [CATALOG] [options]",
        description="Read frozen embeddings: a column of the catalogue, labels (--labels), masks of fields (--fields, "
        "--masks), or landmarks in other patients (--landmarks, --points). All but a column write a page.",
    )
    add_catalog_options(parser, n_scans=EVERY_SCAN)
    parser.add_argument("--embeddings", default="embeddings.parquet", help="table of prism embed, or volumes.parquet")
    parser.add_argument("--label", metavar="COLUMN", help="column to read (default: modality; of --labels: all)")
    parser.add_argument("--k", type=int, default=5, help="neighbours of the kNN probe")
    parser.add_argument("--labels", metavar="TABLE", help="labels by scan_id, or by series_path of CATALOG")
    parser.add_argument("--kind", choices=("auto", "classes", "regression"), default="auto", help="what the labels are")
    beside = "embeddings of another encoder: parquet or csv with scan_id and embedding (or columns of numbers)"
    parser.add_argument(
        "--beside", action="append", default=[], metavar="NAME=TABLE", help=f"{beside}; may be repeated"
    )
    parser.add_argument("--fields", metavar="FOLDER", help="folder of prism field")
    parser.add_argument("--masks", metavar="FOLDER", help="a label volume for each scan")
    parser.add_argument("--mask-label", type=int, metavar="N", help="the label to tell (default: any but 0)")
    fields = "fields of another encoder; may be repeated"
    parser.add_argument("--beside-fields", action="append", default=[], metavar="NAME=FOLDER", help=fields)
    parser.add_argument(
        "--landmarks", metavar="TABLE", help="points with a column landmark, to be found in other patients"
    )
    parser.add_argument("--points", metavar="FOLDER", help="folder of prism field --points TABLE")
    points = "points of another encoder; may be repeated"
    parser.add_argument("--beside-points", action="append", default=[], metavar="NAME=FOLDER", help=points)
    parser.add_argument("--out", default="probe", help="folder for probe.md and probe.png")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main())
