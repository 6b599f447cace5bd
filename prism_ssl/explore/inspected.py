"""Scans and settings shown by the notebook: those of a run, of a catalogue, or phantoms."""

from __future__ import annotations

import dataclasses
import shlex
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from prism_ssl.cli.catalog_options import column_map
from prism_ssl.config.defaults import phantom_cpu
from prism_ssl.config.schema import PrismConfig
from prism_ssl.data.checks import catalog_config
from prism_ssl.explore.checked_scans import CheckedScans, checked_scans
from prism_ssl.explore.scan_map import catalog_of, page_of
from prism_ssl.explore.trained_encoder import run_settings

_BAD = {"scan": pl.String, "modality": pl.String, "reason": pl.String, "detail": pl.String}


@dataclass(frozen=True)
class Inspected:
    """Settings for drawing views, the checked scans, and their origin in words."""

    config: PrismConfig
    checked: CheckedScans
    where: str
    page: Path | None = None
    """Where ``prism check`` has put the page of this archive; None where it has not."""

    @classmethod
    def nothing(cls) -> Inspected:
        """No scan at all."""
        return cls(PrismConfig(), CheckedScans([], pl.DataFrame(schema=_BAD), 0), "no scans")


def inspected(run: str, catalog: str, n_scans: int, columns: str = "") -> Inspected:
    """The first ``n_scans`` scans of ``catalog``, else those of the ``run`` folder, else phantoms.

    "" means no catalogue, or no run. ``columns``: the words after ``--data.columns``; "" means those of the run.

    Raises:
        CatalogError: the table cannot be used.
        ConfigError: ``columns`` are not pairs.
        RunFolderError: ``run`` is no run folder.
    """
    folder = Path(run).expanduser().absolute() if run else None
    if folder is not None:
        config = run_settings(str(folder))
    else:
        config = catalog_config(catalog, n_scans) if catalog.strip() else phantom_cpu()
    path = catalog_of(config, catalog)
    names = column_map(shlex.split(columns)) or config.data.columns
    data = dataclasses.replace(config.data, catalog_path=str(path), n_scans=n_scans, columns=names)
    config = dataclasses.replace(config, data=data)
    where = f"run {folder.name}" if folder else path.name if catalog.strip() else "generated phantoms"
    checked = checked_scans(config, folder.parent / ".preflight" if folder else None)
    return Inspected(config, checked, where, page_of(path, folder.parent if folder else config.run.root))
