"""Small probe sets of phantoms, for the tests of eval/."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from prism_ssl.config.defaults import apply_overrides, phantom_cpu
from prism_ssl.config.schema import PrismConfig
from prism_ssl.contracts import PreparedScan
from prism_ssl.data.catalog import load_records
from prism_ssl.data.checks.verdict import check_scan


def small(**overrides: object) -> PrismConfig:
    """Settings under which a probe set takes no time; keyword ``a__b`` is the setting ``a.b``."""
    settings: dict[str, object] = {
        "data.n_patches": 8, "eval.probe_scans": 4, "eval.views_per_scan": 4, "eval.bootstrap": 50,
    }  # fmt: skip
    return apply_overrides(phantom_cpu(), settings | {key.replace("__", "."): v for key, v in overrides.items()})


def prepared_scans(catalog: Path, count: int) -> list[PreparedScan]:
    """The first scans of a catalogue, checked without Ray."""
    data = dataclasses.replace(phantom_cpu().data, catalog_path=str(catalog))
    return [check_scan(record, phantom_cpu()).prepared(record) for record in load_records(data, 0).records[:count]]
