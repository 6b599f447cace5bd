"""Write the page of an archive: one HTML file with its pictures, without scripts and without a network."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import polars as pl

from prism_ssl.config.schema import PrismConfig
from prism_ssl.report.archive import tables
from prism_ssl.report.archive.charts import MODALITY_COLORS, OTHER_COLOR, histogram
from prism_ssl.report.archive.duplicates import Duplicates
from prism_ssl.report.archive.facts import ArchiveFacts
from prism_ssl.report.archive.pictures import slice_picture_or_none
from prism_ssl.report.archive.plan import loading_plan
from prism_ssl.report.archive.view_sample import BLACK_SHARE, PAIRS, ViewSample, by_modality
from prism_ssl.utils.fs import atomic_file
from prism_ssl.utils.machine import usable_cpus

PAGE_FILE = "archive.html"
REFUSED_SHOWN = 60
"""Most refused scans that are listed one by one, as many of each reason as there are."""
_REASONS_IN_A_COLUMN = 6

_CHARTS = {
    "spacing_mm": "distance of slices, mm",
    "pixel_mm": "size of pixels, mm",
    "slices": "slices",
    "shortest_mm": "shortest side of the volume, mm",
    "longest_mm": "longest side of the volume, mm",
    "volume_mb": "volume in memory, MB",
}


@dataclass(frozen=True, eq=False)
class PageParts:
    """What a page tells. ``said``: the lines of ``prism check``, each with whether it is well. ``sample`` is None where
    no scan is usable, ``trained_on`` the number of scans that are not held out."""

    catalog: str
    facts: ArchiveFacts
    duplicates: Duplicates
    sample: ViewSample | None
    trained_on: int
    said: Sequence[tuple[bool, str]]


def write_page(path: Path, parts: PageParts, config: PrismConfig) -> None:
    """Write the page with mode 0600, whole or not at all. It holds hashed ids and pictures of scans, but no patient id,
    and no path of a scan."""
    template = _environment().get_template("page.html")
    text = template.render(**_context(parts, config))
    with atomic_file(path) as file:
        Path(file.name).chmod(0o600)
        file.write(text.encode())


def _environment() -> jinja2.Environment:
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    return jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )


def _context(parts: PageParts, config: PrismConfig) -> dict[str, Any]:
    facts = parts.facts
    usable = tables.with_geometry(facts.usable)
    return {
        "catalog": parts.catalog,
        "made": f"{datetime.datetime.now():%-d %B %Y, %H:%M}",
        "said": parts.said,
        "colors": {name: MODALITY_COLORS.get(name, OTHER_COLOR) for name in usable["modality"].unique().sort()},
        "tiles": _tiles(facts, usable, parts.duplicates),
        "config": config,
        **_contents(facts),
        "charts": [picture for column, title in _CHARTS.items() if (picture := histogram(usable, column, title))],
        **_views(parts.sample, usable, config),
        **_refused(facts, config),
        **_patients(usable, parts.duplicates),
        "plan": _plan(parts, config),
    }


def _plan(parts: PageParts, config: PrismConfig) -> list[tuple[str, str]]:
    if parts.sample is None or not parts.sample.scans or not parts.trained_on:
        return []
    return loading_plan(config, parts.sample, parts.trained_on, usable_cpus())


def _tiles(facts: ArchiveFacts, usable: pl.DataFrame, duplicates: Duplicates) -> list[tuple[str, str]]:
    size = float(usable["size"].sum()) / 1e9
    return [
        (f"{facts.report.rows:,}", "rows of the table"),
        (f"{facts.scans.height:,}", "selected"),
        (f"{usable.height:,}", "usable"),
        (f"{facts.refused.height:,}", "refused"),
        (f"{usable['patient'].n_unique():,}", "patients with a usable scan"),
        (f"{duplicates.surplus:,}", "repeat the voxels of another"),
        (f"{size:,.1f} GB" if size >= 10 else f"{size * 1e3:,.0f} MB", "of files that are usable"),
    ]


def _contents(facts: ArchiveFacts) -> dict[str, Any]:
    return {
        "modalities": tables.modality_rows(facts),
        "left_out": tables.left_out(facts),
        "assumed": facts.report.assumed,
        "body_parts": tables.kind_bars(facts, "body_part"),
        "body_part_by": tables.known_by(facts, "body_part"),
        "contrasts": tables.kind_bars(facts, "contrast"),
        "contrast_by": tables.known_by(facts, "contrast"),
        "dtypes": tables.header_bars(facts, "dtype"),
        "orientations": tables.header_bars(facts, "orientation"),
    }


def _views(sample: ViewSample | None, usable: pl.DataFrame, config: PrismConfig) -> dict[str, Any]:
    if sample is None or not sample.scans:
        return {"sampled": [], "views": [], "sample_failed": sample.failed if sample else 0, "shrinks": ""}
    small = usable.filter(pl.col("largest_radius_mm") < config.view.radius_mm_max).height
    sampled = [
        {"scan": scan, "shape": tables.in_words(scan.shape), "spacing": tables.in_words(scan.spacing_mm)}
        for scan in sample.scans
    ]
    return {
        "sampled": sampled,
        "pairs": PAIRS,
        "black_share": BLACK_SHARE,
        "views": by_modality(sample.views).to_dicts(),
        "sample_failed": sample.failed,
        "shrinks": f"{small:,} of {usable.height:,}",
    }


def _refused(facts: ArchiveFacts, config: PrismConfig) -> dict[str, Any]:
    refused = facts.refused
    shown = tables.evenly_of_each(refused, "reason", REFUSED_SHOWN)
    limit_s = config.data.open_timeout_s
    cards = [
        {**row, "picture": slice_picture_or_none(row["path"], limit_s) if row["size"] else None}
        for row in shown.select("scan_id", "modality", "reason", "detail", "path", "size").to_dicts()
    ]
    reasons = tables.reason_bars(facts)
    half = -(-len(reasons) // 2) if len(reasons) > _REASONS_IN_A_COLUMN else len(reasons)
    beside = [part for part in (reasons[:half], reasons[half:]) if part]
    return {"reasons": beside, "refused": cards, "refused_beyond": refused.height - len(cards)}


def _patients(usable: pl.DataFrame, duplicates: Duplicates) -> dict[str, Any]:
    each = tables.patients(usable)
    series = each.select(modality=pl.lit("patients"), series="series")
    return {
        "patients": each.height,
        "several": each.filter(pl.col("series") > 1).height,
        "both": each["both"].sum(),
        "series_chart": histogram(series, "series", "usable series of a patient"),
        "duplicates": duplicates,
    }
