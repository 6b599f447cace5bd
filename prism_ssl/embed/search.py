"""Find the most similar vectors: ``prism search --query SCAN[:x,y,z] --index embeddings.parquet``. Exact."""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from prism_ssl.cli.catalog_options import EXIT_NO, EXIT_OK, refused
from prism_ssl.contracts import Float64
from prism_ssl.embed.index import Block
from prism_ssl.embed.unit_vectors import Blocks, unit_blocks
from prism_ssl.errors import ConfigError, PrismError


@dataclass(frozen=True)
class Match:
    """One vector that is similar to the query's; ``x_mm`` and so on are NaN where it stands for a whole scan."""

    cosine: float
    scan_id: str
    subject_id: str
    modality: str
    x_mm: float
    y_mm: float
    z_mm: float


@dataclass(frozen=True)
class Query:
    """A scan's vector, or the one closest to a place [3] (RAS mm) of the scan."""

    scan_id: str
    place_mm: tuple[float, float, float] | None


def parse_query(text: str) -> Query:
    """SCAN or SCAN:x,y,z; raises ``ConfigError`` for anything else."""
    scan_id, colon, place = text.partition(":")
    try:
        numbers = tuple(float(part) for part in place.split(",")) if colon else ()
    except ValueError:
        numbers = (math.nan,)
    if not scan_id or (colon and (len(numbers) != 3 or not all(map(math.isfinite, numbers)))):
        raise ConfigError(f"--query {text!r} has no meaning; needed: SCAN_ID, or SCAN_ID:x,y,z with RAS mm")
    return Query(scan_id, (numbers[0], numbers[1], numbers[2]) if colon else None)


def find(index: Path, query: Query, k: int, other_patients: bool = False) -> tuple[list[Match], float | None]:
    """The ``k`` vectors with the highest cosine to the query's, best first, without the query itself.

    ``other_patients`` leaves out the query's patient. The second value is the distance in mm from the query's place to
    the place of the vector that stands for it; None without one.

    Raises:
        ConfigError: the index cannot be read, or has no vector of the query.
    """
    if k < 1:
        raise ConfigError(f"--k is {k}; needed: 1 or more")
    blocks = unit_blocks(index)
    asked = _asked(index, blocks, query)
    best = list[tuple[float, Match]]()
    (own,) = asked.ids.iter_rows(named=True)
    for block in blocks(None):
        cosine = block.vectors @ asked.vectors[0]
        if other_patients:
            cosine[(block.ids["subject_id"] == own["subject_id"]).to_numpy()] = -math.inf
        else:
            same = (block.ids["scan_id"] == own["scan_id"]).to_numpy()
            same[same] = _same_place(block.places_mm[same], asked.places_mm)
            cosine[same] = -math.inf
        top = np.argpartition(-cosine, min(k, len(cosine)) - 1)[:k]
        best += [(float(cosine[row]), _match(block, row, float(cosine[row]))) for row in top if cosine[row] > -math.inf]
        best = sorted(best, key=lambda pair: -pair[0])[:k]
    gap = None
    if query.place_mm is not None:
        gap = float(np.linalg.norm(asked.places_mm[0] - query.place_mm))
    return [match for _, match in best], gap


def _asked(index: Path, blocks: Blocks, query: Query) -> Block:
    """The block of one vector that stands for the query."""
    found: Block | None = None
    nearest = math.inf
    for block in blocks(query.scan_id):
        rows = np.arange(len(block.vectors))
        if not len(rows):
            continue
        if query.place_mm is None:
            if found is not None or len(rows) > 1:
                told = f"{index} holds many vectors of scan {query.scan_id}"
                raise ConfigError(f"{told}; needed: a place too, as --query {query.scan_id}:x,y,z")
            row, distance = int(rows[0]), 0.0
        else:
            distances = np.linalg.norm(block.places_mm[rows] - query.place_mm, axis=1)
            if not np.isfinite(distances).any():
                raise ConfigError(f"{index} holds no places; needed: a folder of fields or a table of points")
            row, distance = int(rows[int(np.nanargmin(distances))]), float(np.nanmin(distances))
        if distance < nearest:
            nearest = distance
            found = Block(block.ids[[row]], block.places_mm[[row]], block.vectors[[row]])
    if found is None:
        raise ConfigError(f"{index} holds no vector of scan {query.scan_id!r}; needed: a scan_id of its tables")
    return found


def _same_place(places_mm: Float64, place_mm: Float64) -> Any:
    return ((places_mm == place_mm) | (np.isnan(places_mm) & np.isnan(place_mm))).all(axis=1)


def _match(block: Block, row: int, cosine: float) -> Match:
    return Match(cosine, *block.ids.row(row), *block.places_mm[row].tolist())


def main(arguments: Sequence[str] | None = None) -> int:
    """Search and print a line for each match; 0 when there is one, else as ``catalog_options`` says."""
    given, started = _parser().parse_args(arguments), time.monotonic()
    try:
        query = parse_query(given.query)
        matches, gap = find(Path(given.index), query, given.k, given.other_patients)
    except (PrismError, OSError) as error:
        return refused(error)
    if given.json:
        rows = [{name: None if value != value else value for name, value in asdict(match).items()} for match in matches]
        print(json.dumps(rows, indent=2))  # noqa: T201
    else:
        lines = [_in_words(match) for match in matches]
        if gap is not None:
            lines.insert(0, f"the query's vector lies {gap:.1f} mm from its place")
        print("\n".join([*lines, f"{len(matches)} found in {time.monotonic() - started:.1f} s"]))  # noqa: T201
    return EXIT_OK if matches else EXIT_NO


def _in_words(match: Match) -> str:
    place = "" if math.isnan(match.x_mm) else f"  at {match.x_mm:.1f}, {match.y_mm:.1f}, {match.z_mm:.1f} mm"
    return f"{match.cosine:.4f}  scan {match.scan_id}  patient {match.subject_id}  {match.modality}{place}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="prism search", description="The most similar scans, or places of scans.")
    query = "scan_id of the index, or scan_id:x,y,z in RAS mm: the vector of that scan closest to this place"
    parser.add_argument("--query", required=True, metavar="SCAN[:x,y,z]", help=query)
    index = "table of prism embed, volumes.parquet or points.parquet of prism field, or its folder: all points"
    parser.add_argument("--index", default="embeddings.parquet", help=index)
    parser.add_argument("--k", type=int, default=10, help="how many to find")
    parser.add_argument("--other-patients", action="store_true", help="leave out the query's patient")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main())
