"""Body part and contrast agent of a series: as the table's columns tell, else guessed from its words, else unknown.

Only words of this module leave it, never a text of the table.
"""

from __future__ import annotations

import polars as pl

from prism_ssl.data.catalog import other_column
from prism_ssl.data.filters import has_contrast_agent, speaks_of

UNKNOWN, OTHER = "unknown", "other"
BY_COLUMN, BY_DESCRIPTION, BY_EXAM = "a column", "the description", "the exam type"
"""By what a kind is known; a description is that of the series, or of the exam where the series has none."""

_TORSO = ("CHESTABDPELVIS", "NECKCHESTABDPELV")
REGIONS = {
    "whole body": ("WHOLEBODY", "WHOLE BODY", "TOTAL BODY", "WB"),
    "head": (
        *("HEAD", "BRAIN", "SKULL", "CEREBRAL", "CEREBELLUM", "CRANIUM", "CRANIAL", "NEURO", "PITUITARY"),
        *("HIPPOCAMPUS", "ORBIT", "EYE", "FACE", "SINUS", "SINUSES", "IAC", "EAR", "TEMPORAL BONE", "JAW", "MAXILLA"),
        *("TMJ", "HEADNECK", "CIRCLEOFWILLIS", "CIRCLE OF WILLIS"),
    ),
    "neck": (
        *("NECK", "LARYNX", "PHARYNX", "THYROID", "CAROTID", "PAROTID", "TONGUE", "HEADNECK", "NECKCHEST"),
        *("NECKCHESTABDOMEN", "NECKCHESTABDPELV", "HNC"),
    ),
    "chest": (
        *("CHEST", "THORAX", "LUNG", "PULMONARY", "HEART", "CARDIAC", "CORONARY", "CORONARYARTERY", "MEDIASTINUM"),
        *("BREAST", "RIB", "STERNUM", "AORTA", "ESOPHAGUS", "CHESTABDOMEN", "CHESTPELVIS", "NECKCHEST"),
        *("NECKCHESTABDOMEN", *_TORSO),
    ),
    "abdomen": (
        *("ABDOMEN", "ABDOMINAL", "ABD", "ABDO", "LIVER", "HEPATIC", "KIDNEY", "RENAL", "ADRENAL", "PANCREAS"),
        *("SPLEEN", "STOMACH", "COLON", "GALLBLADDER", "MRCP", "BOWEL", "ABDOMENPELVIS", "CHESTABDOMEN"),
        *("NECKCHESTABDOMEN", *_TORSO),
    ),
    "pelvis": (
        *("PELVIS", "PELVIC", "PROSTATE", "BLADDER", "UTERUS", "CERVIX", "OVARY", "RECTUM", "RECTAL", "TESTIS"),
        *("ABDOMENPELVIS", "CHESTPELVIS", *_TORSO),
    ),
    "spine": (
        *("SPINE", "SPINAL", "CSPINE", "TSPINE", "LSPINE", "LSSPINE", "SSPINE", "CTSPINE", "TLSPINE", "LUMBAR"),
        *("CERVICAL", "SACRUM", "SACRAL", "SIJOINT"),
    ),
    "limb": (
        *("EXTREMITY", "EXTREMITIES", "LIMB", "ARM", "SHOULDER", "CLAVICLE", "HUMERUS", "ELBOW", "FOREARM", "WRIST"),
        *("HAND", "FINGER", "THUMB", "HIP", "THIGH", "FEMUR", "KNEE", "PATELLA", "LEG", "CALF", "ANKLE", "FOOT", "TOE"),
    ),
}  # fmt: skip
"""Words of each region; a union of regions, as DICOM spells it, is in each."""

BODY_COLUMNS = ("body_part", "BodyPartExamined", "body_part_examined")
CONTRAST_COLUMNS = ("contrast_agent", "ContrastBolusAgent", "contrast_bolus_agent")
COLUMNS = (*BODY_COLUMNS, *CONTRAST_COLUMNS)
"""Columns of the table that tell a kind."""

_WITH = (
    *("POST", "WITH", "CE", "GD", "GAD", "GADO", "ENHANCED", "CTA", "C+", "+C", "ARTERIAL", "ART", "VENOUS", "VEN"),
    *("PORTAL", "PORTOVENOUS", "PV", "NEPHROGRAPHIC", "EXCRETORY"),
)
_WITHOUT = (
    *("PRE", "WITHOUT", "WO", "NATIVE", "PLAIN", "UNENHANCED", "NON", "NONCONTRAST", "NO CONTRAST"),
    *("NC", "C-"),
)


def kinds() -> list[pl.Expr]:
    """Columns ``body_part``, ``body_part_by``, ``contrast`` and ``contrast_by`` of rows as ``described_rows`` has them.

    A body part is one or several regions, "other" where a column names another one. ``..._by`` is "" where unknown.
    """
    told = _first(BODY_COLUMNS)
    texts = {BY_COLUMN: told, BY_DESCRIPTION: pl.col("series_text"), BY_EXAM: pl.col("exam_type")}
    found = {by: _regions(text) for by, text in texts.items()}
    found[BY_COLUMN] = pl.when((told != "") & (found[BY_COLUMN] == "")).then(pl.lit(OTHER)).otherwise(found[BY_COLUMN])
    agent = pl.coalesce(has_contrast_agent(pl.col(other_column(name))) for name in CONTRAST_COLUMNS)
    by_agent = pl.when(agent).then(pl.lit("with")).when(~agent).then(pl.lit("without")).otherwise(pl.lit(""))
    return [
        *_first_known("body_part", found),
        *_first_known("contrast", {BY_COLUMN: by_agent, BY_DESCRIPTION: _guessed_contrast(pl.col("series_text"))}),
    ]


def _first(columns: tuple[str, ...]) -> pl.Expr:
    text = pl.lit("")
    for name in reversed(columns):
        column = pl.col(other_column(name))
        text = pl.when(column != "").then(column).otherwise(text)
    return text


def _regions(text: pl.Expr) -> pl.Expr:
    parts = [
        pl.when(speaks_of(text, words)).then(pl.lit(f"{region} + ")).otherwise(pl.lit(""))
        for region, words in REGIONS.items()
    ]
    return pl.concat_str(parts).str.strip_suffix(" + ")


def _guessed_contrast(text: pl.Expr) -> pl.Expr:
    text = text.str.replace_all("(?i)w/o", "WO")
    # "W" is "with" beside "contrast", "weighted" beside a T1; "contrast" alone may be that of phases.
    maybe = speaks_of(text, ("W",))
    given = speaks_of(text, [word.replace("+", r"\+") for word in _WITH]) | (maybe & speaks_of(text, ("CONTRAST",)))
    not_given = speaks_of(text, _WITHOUT)
    answer = pl.when(not_given & ~given & ~maybe).then(pl.lit("without")).when(given & ~not_given).then(pl.lit("with"))
    return answer.otherwise(pl.lit(""))


def _first_known(name: str, found: dict[str, pl.Expr]) -> list[pl.Expr]:
    value, by = pl.lit(UNKNOWN), pl.lit("")
    for source, answer in reversed(found.items()):
        value = pl.when(answer != "").then(answer).otherwise(value)
        by = pl.when(answer != "").then(pl.lit(source)).otherwise(by)
    return [value.alias(name), by.alias(f"{name}_by")]
