"""Select catalogue rows by modality and description: polars expressions, true where a row matches.

The vocabulary is a list of words. A word matches as a whole, in any case, between characters that are neither letters
nor digits (so ``_`` separates), with an optional plural S and number after it: ``LOC`` is found in ``ax_loc2`` but not
in ``BLOCK``. A space inside a word stands for any separators or none: ``3 PLANE`` is found in ``3-PLANE`` and
``3plane``.

``exam_type`` is used only for series without a description: it names the whole examination, and an "MRI BRAIN
PERFUSION" holds T1 and FLAIR series too.
"""

from __future__ import annotations

from collections.abc import Iterable

import polars as pl

TIME_SERIES = (
    *("PERFUSION", "PERF", "PWI", "DSC", "DCE", "CTP", "ASL", "PASL", "PCASL"),
    # ADC and trace images are computed from a diffusion series and dropped with it.
    *("DIFFUSION", "DIFF", "DWI", "DTI", "DKI", "IVIM", "TRACE", "TRACEW", "ADC"),
    *("BOLD", "FMRI", "RSFMRI", "RESTING STATE"),
    *("CINE", "DYN", "DYNAMIC", "4D", "TIME RESOLVED", "TWIST", "TRICKS"),
    *("MONITORING", "PREMONITORING", "SMART PREP", "TEST BOLUS", "TIMING BOLUS", "BOLUS TRACKING", "BOLUS TRACKER"),
)
"""Perfusion, diffusion, functional and cine series, and single-slice bolus tracking."""

LOCALIZERS = (
    *("LOCALIZER", "LOCALISER", "LOC", "SCOUT", "AAHSCOUT", "SCOUT VIEW", "PILOT", "SURVEY"),
    *("TOPOGRAM", "TOPO", "SURVIEW", "SCANOGRAM"),
    *("3 PLANE", "3 PL", "THREE PLANE", "TRI PLANE"),
)
"""Planning images of CT and MR."""

DERIVED = (
    *("MIP", "MINIP", "MAXIP", "PROJECTION", "VRT", "3D VR", "VOLUME RENDERED", "VOLUME RENDERING"),
    *("REFORMAT", "REFORMATTED", "REFORMATION", "RFMT", "CPR", "CURVED"),
    *("SUBTRACTION", "SUBTRACTED", "SUB", "DERIVED"),
    *("PARAMETRIC", "MAP", "ADC", "EADC", "COLFA", "CBF", "CBV", "RCBF", "RCBV", "MTT", "TTP", "TMAX"),
    *("SCREEN SAVE", "SCREEN SHOT", "SCREEN CAPTURE", "SECONDARY CAPTURE", "DOSE REPORT", "KEY IMAGE"),
)
"""Projections, reformats, subtractions, parametric maps and captured screens; ``MPR`` has a rule of its own."""

_GAP = "[^A-Za-z0-9]"
_AGENT_NOT_TOLD = r"(?i)^\W*((N\W?A|NAN|NULL|UNKNOWN|UNSPECIFIED|NOT (KNOWN|SPECIFIED|AVAILABLE))\W*)?$"
_NO_AGENT = (
    r"(?i)^\W*((NO|NON|NONE|NIL|NOT|WITHOUT|WO|W/O|NONCONTRAST|UNENHANCED|NATIVE|PLAIN)([^A-Z0-9]|$)"
    r"|(N|F|FALSE|0([.]0*)?\s*(ML|CC)?)\W*$)"
)
_WITHOUT_AND_WITH = r"(?i)^\W*(WITHOUT|WO|W/O|NON)[^A-Z0-9](.*[^A-Z0-9])?(WITH|W/?)([^A-Z0-9/]|$)"
_NON_IONIC_AGENT = r"(?i)^NON\W?IONIC"


def modality_name(column: str = "modality") -> pl.Expr:
    """The modality trimmed and in capitals; "" where there is none."""
    return pl.col(column).str.strip_chars().str.to_uppercase().fill_null("")


def has_modality(modalities: Iterable[str], column: str = "modality") -> pl.Expr:
    """True where the modality is one of ``modalities``, whatever its case and the blanks around it."""
    return modality_name(column).is_in([name.strip().upper() for name in modalities])


def series_text(description: str = "series_description", exam_type: str = "exam_type") -> pl.Expr:
    """The text on a series: its description, the exam type where that is blank, "" without either."""
    text = pl.coalesce(_blank_to_null(description), _blank_to_null(exam_type), pl.lit(""))
    return text.alias("series_text")


def is_time_series(text: pl.Expr) -> pl.Expr:
    """True where ``text`` describes several volumes of one place (``TIME_SERIES``); null counts as "".

    Args:
        text: a string expression, usually ``series_text()``.
    """
    return speaks_of(text, TIME_SERIES)


def is_localizer(text: pl.Expr) -> pl.Expr:
    """True where ``text`` describes a localizer (``LOCALIZERS``); null counts as ""."""
    return speaks_of(text, LOCALIZERS)


def is_derived(text: pl.Expr) -> pl.Expr:
    """True where ``text`` describes an image computed from another (``DERIVED``); null counts as "".

    ``MPR`` is a reformat, unless T1 stands beside it: Siemens names an acquired MPRAGE ``t1_mpr``.
    """
    return speaks_of(text, DERIVED) | (speaks_of(text, ("MPR",)) & ~speaks_of(text, ("T1", "T1W")))


def has_contrast_agent(text: pl.Expr) -> pl.Expr:
    """Whether a contrast agent was given, as a field or column on it says; null where it does not say.

    Args:
        text: a string expression: the name of the agent, a yes or no, or nothing.
    """
    trimmed = text.str.strip_chars()
    given = trimmed.str.contains(f"{_NON_IONIC_AGENT}|{_WITHOUT_AND_WITH}") | ~trimmed.str.contains(_NO_AGENT)
    return pl.when(~trimmed.str.contains(_AGENT_NOT_TOLD)).then(given)


def speaks_of(text: pl.Expr, words: Iterable[str]) -> pl.Expr:
    """True where ``text`` holds one of the words, as told above; null counts as ""."""
    spelt = "|".join(word.replace(" ", f"{_GAP}*") for word in words)
    return text.fill_null("").str.contains(f"(?i)(?:^|{_GAP})(?:{spelt})S?[0-9]*(?:{_GAP}|$)")


def _blank_to_null(column: str) -> pl.Expr:
    trimmed = pl.col(column).str.strip_chars()
    return pl.when(trimmed != "").then(trimmed)
