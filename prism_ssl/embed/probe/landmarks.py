"""Find landmarks of a table in the scans of other patients, by the vectors of ``prism field --points``."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from prism_ssl.contracts import Float64
from prism_ssl.embed.field.lattice import GRID_MM
from prism_ssl.embed.field.requests import IN_MM, read_table
from prism_ssl.embed.field.scan_field import POINTS_TABLE
from prism_ssl.errors import ConfigError
from prism_ssl.eval.patients import Estimate
from prism_ssl.eval.place.landmarks import (
    LandmarkScan,
    Similarity,
    closeness,
    landmark_answers,
    less_mean,
    over_patients,
)
from prism_ssl.eval.proxy_metrics import cross_similarity

POSITION = "position alone"
"""Name of the comparison that knows no image: where a landmark lies, from the middle of the scan's landmarks."""


@dataclass(frozen=True)
class LandmarkRow:
    """One encoder: recall@1 and how much better the first one's is, paired; the distance of the found from the true
    landmark; recall with each scan's mean vector taken off; recall between two modalities, None without such scans."""

    encoder: str
    recall: Estimate
    better: Estimate | None
    distance_mm: Estimate
    centred: Estimate
    across: Estimate | None


@dataclass(frozen=True)
class LandmarksFound:
    """What was asked, and a row for each encoder; the last one knows the position alone."""

    scans: int
    patients: int
    landmarks: int
    chance: float
    chance_mm: float
    rows: list[LandmarkRow]


def find_landmarks(table: Path, folders: Mapping[str, Path]) -> LandmarksFound:
    """Ask every encoder for each landmark of a scan in the scans of other patients.

    Args:
        table: what ``prism field --points`` was given, with a column ``landmark``.
        folders: name of an encoder -> folder of that command; the first is the one that is probed.

    Raises:
        ConfigError: a table cannot be used, was made from other points, or no two patients share two landmarks.
    """
    names = _landmarks(table)
    tables = {encoder: _points(folder, table, names) for encoder, folder in folders.items()}
    common = set.intersection(*(set(points["row"]) for points in tables.values()))
    encoders = {
        encoder: _Asked(_scans(points.filter(pl.col("row").is_in(common)), table)) for encoder, points in tables.items()
    }
    first = next(iter(encoders.values()))
    takes_part = np.isfinite(first.answers.recall).any(axis=1)
    if not takes_part.any():
        raise ConfigError(
            f"{table} gives no two landmarks that scans of two patients both have, among the {len(first.scans)} scans "
            "with vectors; needed: equal names in the column landmark, and points within the scans"
        )
    at_places = [dataclasses.replace(scan, vectors=scan.points_mm) for scan in first.scans]
    encoders[POSITION] = _Asked(at_places, closeness)
    return LandmarksFound(
        scans=int(takes_part.sum()),
        patients=len(set(np.array(first.patients)[takes_part].tolist())),
        landmarks=len({name for scan in first.scans for name in scan.names}),
        chance=over_patients(first.answers.chance, first.patients).value,
        chance_mm=over_patients(first.answers.chance_mm, first.patients).value,
        rows=[_row(encoder, asked, first) for encoder, asked in encoders.items()],
    )


class _Asked:
    """The scans of one encoder, and its answers; ``less_mean`` are those with the mean vector of a scan taken off."""

    def __init__(self, scans: Sequence[LandmarkScan], similarity: Similarity = cross_similarity) -> None:
        self.scans, self.patients = scans, [scan.patient for scan in scans]
        self.answers = landmark_answers(scans, similarity)
        self.less_mean = landmark_answers(scans, less_mean) if similarity is cross_similarity else self.answers


def _row(encoder: str, asked: _Asked, first: _Asked) -> LandmarkRow:
    recall, patients = asked.answers.recall, asked.patients
    modality = np.array([scan.modality for scan in asked.scans])
    across = modality[:, None] != modality[None]
    return LandmarkRow(
        encoder,
        recall=over_patients(recall, patients),
        better=None if asked is first else over_patients(first.answers.recall - recall, patients),
        distance_mm=over_patients(asked.answers.distance_mm, patients),
        centred=over_patients(asked.less_mean.recall, patients),
        across=over_patients(recall, patients, across) if (across & np.isfinite(recall)).any() else None,
    )


def _landmarks(path: Path) -> pl.DataFrame:
    """The column ``landmark`` of the table, and its coordinates in mm where it has them, by ``row``."""
    table = read_table(path)
    if "landmark" not in table.columns or table.is_empty():
        raise ConfigError(
            f"{path} has {table.height} rows and the columns {', '.join(table.columns)}; needed: a column landmark "
            "that names each point, beside the columns of prism field --points"
        )
    in_mm = [pl.col(axis).cast(pl.Float64, strict=False).alias(f"asked_{axis}") for axis in IN_MM if axis in table]
    scan = [pl.col("scan_id").cast(pl.String).alias("asked_scan")] if "scan_id" in table.columns else []
    return table.with_row_index("row").select(
        pl.col("row").cast(pl.Int64), pl.col("landmark").cast(pl.String).str.strip_chars().fill_null(""), *in_mm, *scan
    )


def _points(folder: Path, table: Path, names: pl.DataFrame) -> pl.DataFrame:
    """The points of an encoder, checked against the ``table`` that they should be made from."""
    file = folder / POINTS_TABLE if folder.is_dir() else folder
    try:
        points = pl.read_parquet(file, glob=False).drop_nulls("embedding").sort("row")
    except (OSError, pl.exceptions.PolarsError) as error:
        raise ConfigError(f"{file} cannot be read; needed: what prism field --points {table} writes") from error
    joined = points.join(names, on="row", how="left", maintain_order="left")
    moved = [
        (pl.col(axis) - pl.col(f"asked_{axis}")).abs().fill_null(np.inf) > GRID_MM
        for axis in IN_MM
        if f"asked_{axis}" in joined.columns
    ]
    if "asked_scan" in joined.columns:
        moved.append(pl.col("scan_id") != pl.col("asked_scan"))
    if joined["landmark"].null_count() or joined.filter(pl.any_horizontal(pl.lit(False), *moved)).height:
        raise ConfigError(f"{file} was made from other points than {table} holds; embed them again")
    return joined.filter(pl.col("landmark") != "")


def _scans(points: pl.DataFrame, table: Path) -> list[LandmarkScan]:
    scans = list[LandmarkScan]()
    for _, of_scan in points.group_by("scan_id", maintain_order=True):
        if of_scan["landmark"].n_unique() < of_scan.height:
            twice = of_scan.filter(pl.col("landmark").is_duplicated())
            rows = " and ".join(str(row + 1) for row in twice["row"][:2])
            raise ConfigError(
                f"{table} names a landmark of one scan more than once: {twice['landmark'][0]!r}, data rows {rows}; "
                "needed: one point of a name in each scan"
            )
        vectors: Float64 = of_scan["embedding"].to_numpy().astype(float)
        scans.append(
            LandmarkScan(
                of_scan["subject_id"][0],
                of_scan["modality"][0],
                tuple(of_scan["landmark"]),
                of_scan.select(IN_MM).to_numpy(),
                vectors,
            )
        )
    return scans
