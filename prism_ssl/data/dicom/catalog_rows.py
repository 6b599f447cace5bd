"""The archive's table: one row a volume, and what was left out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from prism_ssl.data.dicom.header import NAMES
from prism_ssl.data.dicom.instance import Instance
from prism_ssl.data.dicom.pseudonyms import Pseudonyms
from prism_ssl.data.dicom.series_rules import SYNTAXES
from prism_ssl.data.dicom.texts import body_part, contrast_agent, identifying_words, machine_text, maker, protocol_words
from prism_ssl.data.dicom.volumes import Part
from prism_ssl.errors import ConfigError, MachineTrouble
from prism_ssl.utils.fs import atomic_file, write_atomic

CATALOG_FILE, LEFT_OUT_FILE = "catalog.parquet", "left_out.csv"
COLUMNS: dict[str, Any] = {
    **dict.fromkeys(("pmbb_id", "modality", "series_path", "series_id", "study_id"), pl.String),
    **dict.fromkeys(("series_description", "exam_type", "body_part", "manufacturer", "model", "kernel"), pl.String),
    "contrast_agent": pl.Boolean,
    **dict.fromkeys(("scanning_sequence", "sequence_variant", "sequence_name", "image_type", "plane"), pl.String),
    **dict.fromkeys(("columns", "rows", "slices"), pl.Int64),
    **dict.fromkeys(("spacing_x_mm", "spacing_y_mm", "spacing_z_mm", "slice_thickness_mm"), pl.Float64),
    **dict.fromkeys(("gantry_tilt_deg", "echo_time_ms", "repetition_time_ms", "inversion_time_ms"), pl.Float64),
    **dict.fromkeys(("flip_angle_deg", "field_strength_t", "kvp"), pl.Float64),
    "encoding": pl.String,
}
"""Columns of catalog.parquet; ``plane`` is axial, coronal, sagittal or oblique."""
_OF_PLANES = ("plane", "columns", "rows", "spacing_x_mm", "spacing_y_mm")
"""Columns that tell orientations of one series apart."""
LEFT_OUT_COLUMNS = ("pmbb_id", "series_id", "modality", "reason", "detail", "files")

_NUMBERS = {
    "slice_thickness_mm": "SliceThickness",
    "echo_time_ms": "EchoTime",
    "repetition_time_ms": "RepetitionTime",
    "inversion_time_ms": "InversionTime",
    "flip_angle_deg": "FlipAngle",
    "field_strength_t": "MagneticFieldStrength",
    "kvp": "KVP",
}
_MACHINE_TEXTS = {
    "model": "ManufacturerModelName",
    "kernel": "ConvolutionKernel",
    "scanning_sequence": "ScanningSequence",
    "sequence_variant": "SequenceVariant",
    "sequence_name": "SequenceName",
}


def same_planes(row: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether the rows of two volumes tell planes of one orientation, size and spacing."""
    return all(row[name] == other[name] for name in _OF_PLANES)


def volume_row(part: Part, ids: Mapping[str, str], keep_descriptions: bool) -> dict[str, Any]:
    """The row of a volume.

    Args:
        part: with its stack.
        ids: pmbb_id, series_id, study_id and series_path.
        keep_descriptions: whether descriptions are kept whole, else reduced to words of protocols.
    """
    assert part.stack is not None
    first, stack = part.instances[0], part.stack
    texts, identifying, names = first.texts, identifying_words(first), identifying_words(first, NAMES)
    description = {"series_description": "SeriesDescription", "exam_type": "StudyDescription"}
    told: dict[str, Any] = {
        "modality": first.modality,
        **{ours: machine_text(texts.get(name, ""), identifying) for ours, name in _MACHINE_TEXTS.items()},
        **{
            ours: texts.get(name, "") if keep_descriptions else protocol_words(texts.get(name, ""), names)
            for ours, name in description.items()
        },
        **{ours: first.numbers.get(name) for ours, name in _NUMBERS.items()},
        "body_part": body_part(texts.get("BodyPartExamined", "")),
        "manufacturer": maker(texts.get("Manufacturer", "")),
        "contrast_agent": contrast_agent(texts.get("ContrastBolusAgent")),
        "image_type": machine_text("\\".join(first.frames[0].image_type), identifying),
        "plane": stack.plane_name,
        "columns": first.columns,
        "rows": first.rows,
        "slices": len(stack.order),
        **dict(zip(("spacing_x_mm", "spacing_y_mm", "spacing_z_mm"), stack.spacing_mm, strict=True)),
        "gantry_tilt_deg": stack.tilt_deg,
        "encoding": SYNTAXES[first.syntax],
    }
    return {name: told[name] if name in told else ids[name] for name in COLUMNS}


def reduced(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row with its descriptions reduced to words of protocols."""
    return {**row, **{name: protocol_words(row[name] or "") for name in ("series_description", "exam_type")}}


def ids_of(instance: Instance, series_key: str, part: str, pseudonyms: Pseudonyms) -> dict[str, str]:
    """pmbb_id, series_id (of this part of the series), study_id and series_path.

    Without a PatientID the study counts as the patient, without a study the series.
    """
    study = instance.study or series_key
    patient = pseudonyms.of("P", instance.patient) if instance.patient else pseudonyms.of("P", "study", study)
    series = pseudonyms.of("S", series_key, part)
    return {
        "pmbb_id": patient,
        "series_id": series,
        "study_id": pseudonyms.of("E", study),
        "series_path": f"{patient}/{series}",
    }


def rows_in(out: Path) -> list[dict[str, Any]]:
    """Rows of the table in ``out``; none where there is no table.

    Raises:
        ConfigError: it cannot be read.
    """
    file = out / CATALOG_FILE
    if not file.exists():
        return []
    try:
        return pl.read_parquet(file).select(*COLUMNS).to_dicts()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise ConfigError(
            f"{file} cannot be read, or lacks columns ({type(error).__name__}); needed: the table that the last import "
            "wrote; bring it back, or move it away: then only volumes whose DICOM files are still there are in the next"
        ) from error


def write_tables(out: Path, kept: Sequence[Mapping[str, Any]], left: Iterable[Mapping[str, Any]]) -> None:
    """Write both tables into ``out``, each whole or not at all.

    Raises:
        MachineTrouble: one cannot be written; the earlier one stays.
    """
    table = pl.DataFrame(list(kept), schema=COLUMNS, orient="row").sort("series_path")
    schema = dict.fromkeys(LEFT_OUT_COLUMNS, pl.String) | {"files": pl.Int64}
    rows = pl.DataFrame(list(left), schema=schema, orient="row").sort("reason", "pmbb_id", "series_id", "detail")
    try:
        with atomic_file(out / CATALOG_FILE) as file:
            table.write_parquet(file)
        write_atomic(out / LEFT_OUT_FILE, rows.write_csv().encode())
    except (pl.exceptions.PolarsError, OSError) as error:  # Polars names no system call that failed
        raise MachineTrouble(
            f"the tables in {out} cannot be written ({type(error).__name__}: {error}); needed: space on its disk, and "
            "permission to write there; then the same command goes on"
        ) from error
