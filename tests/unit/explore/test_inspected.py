"""The notebook of scans tells where the page of their archive lies."""

from __future__ import annotations

from pathlib import Path

import pytest

from prism_ssl.data.archive import preflight_dir
from prism_ssl.explore.inspected import inspected
from prism_ssl.report.archive.page import PAGE_FILE


def test_the_page_that_the_check_has_written_is_found(
    phantom_catalog: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert inspected("", str(phantom_catalog), 2).page is None
    page = preflight_dir(phantom_catalog, tmp_path / "runs" / ".preflight") / PAGE_FILE
    page.parent.mkdir(parents=True)
    page.touch()
    assert inspected("", str(phantom_catalog), 2).page == page
