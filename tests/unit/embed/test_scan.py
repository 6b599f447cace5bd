"""A scan that cannot be read in time costs its own row and no other."""

from __future__ import annotations

import dataclasses
import threading
from pathlib import Path
from typing import Any

import pytest

from prism_ssl.config.defaults import phantom_cpu
from prism_ssl.contracts import ScanRecord
from prism_ssl.data.catalog import load_records
from prism_ssl.embed import scan as of_scan
from prism_ssl.embed.scan import EmbedSettings, cut_views


@pytest.fixture
def settings(phantom_catalog: Path) -> EmbedSettings:
    config = phantom_cpu()
    data = dataclasses.replace(config.data, catalog_path=str(phantom_catalog), open_timeout_s=0.5)
    return EmbedSettings(dataclasses.replace(config, data=data), 1, 7)


def _record(settings: EmbedSettings) -> ScanRecord:
    return load_records(settings.config.data, 0).records[0]


@pytest.mark.parametrize("hanging", ["inspect_and_open", "file_signature"])
def test_a_file_that_hangs_is_given_up_with_the_reason(
    settings: EmbedSettings, monkeypatch: pytest.MonkeyPatch, hanging: str
) -> None:
    over = threading.Event()

    def hang(*_: Any) -> None:
        over.wait(60)  # as a read from a file server that is gone

    monkeypatch.setattr(of_scan, hanging, hang)
    monkeypatch.setattr(of_scan, "_STAMP_S", 0.5)
    try:
        row = cut_views(_record(settings), settings)
    finally:
        over.set()
    assert row["reason"] == "open_timed_out"
    monkeypatch.undo()
    assert cut_views(_record(settings), settings)["reason"] is None
