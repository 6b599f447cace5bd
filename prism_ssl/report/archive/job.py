"""Gather what the page of an archive tells, and write it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from prism_ssl.config.schema import PrismConfig
from prism_ssl.data.archive import SelectedScans
from prism_ssl.data.pool import with_other_series
from prism_ssl.data.preflight import PreflightResult
from prism_ssl.report.archive.duplicates import duplicates
from prism_ssl.report.archive.facts import archive_facts
from prism_ssl.report.archive.page import PAGE_FILE, PageParts, write_page
from prism_ssl.report.archive.view_sample import sample_views


def archive_page(
    selected: SelectedScans,
    preflight: PreflightResult,
    config: PrismConfig,
    folder: Path,
    trained_on: int,
    said: Sequence[tuple[bool, str]],
    tmp_root: Path,
) -> Path:
    """Write ``PAGE_FILE`` into ``folder``, preflight's own, and return its path. For the rest see ``PageParts``.

    Counts are exact; the views and the pictures are of samples, so memory and time beyond preflight's do not grow with
    the scans, but for a row of facts each.

    Raises as ``load_records``.
    """
    facts = archive_facts(selected.selection, preflight.verdicts, config.data)
    scans = with_other_series(preflight.kept) if config.view.other_series_share else preflight.kept
    parts = PageParts(
        catalog=str(selected.catalog.resolve()),
        facts=facts,
        duplicates=duplicates(facts.scans, config.data.open_timeout_s),
        sample=sample_views(scans, config, tmp_root) if scans else None,
        trained_on=trained_on,
        said=said,
    )
    page = folder / PAGE_FILE
    write_page(page, parts, config)
    return page
