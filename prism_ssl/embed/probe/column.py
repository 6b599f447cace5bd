"""Read a column of the catalogue from embeddings of ``prism embed``."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from prism_ssl.config.schema import DataConfig
from prism_ssl.data.catalog import column_values, load_records
from prism_ssl.errors import ConfigError
from prism_ssl.eval.embedding_probe import ProbeScore, probe_classes

_NEEDED = ("scan_id", "subject_id", "modality", "embedding")


@dataclasses.dataclass(frozen=True)
class Probed:
    """What a probe was asked, and its balanced accuracy on patients that it was not fitted on."""

    label: str
    scans: int
    left_out: int
    """Scans without a value, or of a class that a single patient has."""
    patients: int
    classes: dict[str, int]
    score: ProbeScore


def probe_table(embeddings: Path, data: DataConfig, label: str, k: int = 5) -> Probed:
    """Tell the classes of a catalogue's column from frozen embeddings; folds go by patient.

    Args:
        embeddings: a table of ``prism embed``.
        data: the catalogue that it was made from.
        label: ``modality``, or any column of the catalogue; scans without a value are left out.
        k: neighbours of the kNN probe.

    Raises:
        ConfigError: the table is none of embeddings, or shares no scan with the catalogue.
        CatalogError: the catalogue cannot be used, or lacks the column.
    """
    if k < 1:
        raise ConfigError(f"--k is {k}; needed: 1 or more")
    table = _read(embeddings)
    labels = _labels(data, label)
    table = table.with_columns(pl.col("scan_id").replace_strict(labels, default="").alias("label"))
    labelled = table.filter(pl.col("label") != "").sort("scan_id")
    known = labelled.filter(pl.col("subject_id").n_unique().over("label") > 1)  # the others cannot be split by patient
    if labelled.is_empty():
        raise ConfigError(
            f"none of the {table.height} scans of {embeddings} has a value in column {label!r} of {data.catalog_path}; "
            "needed: the catalogue that was embedded, and a column with values"
        )
    x, patients = known["embedding"].to_numpy().astype(float), known["subject_id"].to_list()
    score = probe_classes(x, known["label"].to_list(), patients, k)
    counts = dict(Counter(known["label"]).most_common())
    return Probed(label, known.height, table.height - known.height, len(set(patients)), counts, score)


def _read(path: Path) -> pl.DataFrame:
    try:
        table = pl.read_parquet(path, glob=False)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise ConfigError(f"{path} cannot be read ({type(error).__name__}); needed: a table of prism embed") from error
    if missing := [name for name in _NEEDED if name not in table.columns]:
        raise ConfigError(f"{path} has no column {', '.join(missing)}; needed: a table of prism embed")
    kind = table["embedding"].dtype
    if not isinstance(kind, pl.Array) or not kind.inner.is_float() or table.is_empty():
        found = "no row" if table.is_empty() else f"embeddings of type {kind}"
        raise ConfigError(f"{path} has {found}; needed: a table of prism embed")
    table = table.select(_NEEDED).unique("scan_id", maintain_order=True)
    if not np.isfinite(table["embedding"].to_numpy()).all():
        raise ConfigError(f"{path} holds embeddings that are not finite; embed again with a good checkpoint")
    return table


def _labels(data: DataConfig, label: str) -> dict[str, str]:
    """scan_id -> value of the column; "" where it has none."""
    records = load_records(data, seed=0).records
    if label == "modality":
        return {record.scan_id: record.modality for record in records}
    return column_values(data, records, label)


def plain(probed: Probed) -> dict[str, Any]:
    """For JSON."""
    score = {name: value if math.isfinite(value) else None for name, value in dataclasses.asdict(probed.score).items()}
    return dataclasses.asdict(probed) | {"score": score}


def in_words(probed: Probed) -> str:
    """For the console."""
    shown = ", ".join(f"{name} {count}" for name, count in list(probed.classes.items())[:8])
    left = (
        f"; {probed.left_out} scans without a value, or of a class of one patient, left out" if probed.left_out else ""
    )
    head = f"{probed.label}: {probed.scans} scans of {probed.patients} patients ({shown}){left}"
    if not math.isfinite(probed.score.linear):
        return f"{head}\nnothing to tell apart: fewer than two classes have scans of two patients or more"
    score = probed.score
    return (
        f"{head}\nbalanced accuracy on patients that the probe has not seen: "
        f"kNN {score.knn:.2f}, linear {score.linear:.2f}, chance {score.chance:.2f}\n"
        "Probe the embeddings of untrained weights too: scanners differ in ways that need no learning."
    )
