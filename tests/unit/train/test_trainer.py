"""What is refused before a run has a folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from prism_ssl.config.defaults import apply_overrides, phantom_cpu
from prism_ssl.errors import CatalogError
from prism_ssl.train.trainer import train


@pytest.mark.parametrize(
    "content", [None, "mrn,modality,series_path\n1,CT,a\n", "pmbb_id,modality,series_path\n1,US,a\n"]
)
def test_a_table_that_cannot_be_used_leaves_no_run_behind(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "t.csv").write_text(content)
    places = {"run.root": str(tmp_path / "runs"), "run.tmp_root": str(tmp_path / "tmp")}
    config = apply_overrides(phantom_cpu(), places | {"data.catalog_path": str(tmp_path / "t.csv")})
    with pytest.raises(CatalogError):
        train(config, Console(quiet=True))
    assert not (tmp_path / "runs").exists()
