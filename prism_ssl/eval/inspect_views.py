"""See what the encoder is given: ``python -m prism_ssl.eval.inspect_views CATALOG --scan ID --out view.png``."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from prism_ssl.config.schema import PrismConfig
from prism_ssl.contracts import PreparedScan, ScanRecord, VisitKey
from prism_ssl.data.scan_check import check_scan
from prism_ssl.data.views import View, draw_pair
from prism_ssl.errors import CatalogError, PrismError, ScanRejected
from prism_ssl.eval.catalog_scans import catalog_config, catalog_records, open_prepared
from prism_ssl.eval.view_panel import save_panel
from prism_ssl.eval.view_words import pair_in_words


def find_record(records: Sequence[ScanRecord], scan_id: str) -> ScanRecord:
    """The record of a scan; raises ``CatalogError`` naming the nearest id when there is none."""
    by_id = {record.scan_id: record for record in records}
    if scan_id not in by_id:
        nearest = difflib.get_close_matches(scan_id, by_id, n=1, cutoff=0.0)[0]
        raise CatalogError(
            f"no scan {scan_id!r} among the {len(by_id)} selected ones; the nearest is {nearest!r}; "
            "--list prints all of them, --n-scans selects more"
        )
    return by_id[scan_id]


def prepared_scan(records: Sequence[ScanRecord], config: PrismConfig) -> PreparedScan:
    """The first of the records that passes preflight's checks; raises ``ScanRejected`` as the first did if none."""
    first: ScanRejected | None = None
    for record in records:
        verdict = check_scan(record, config)
        if verdict.reason is None:
            return verdict.prepared(record)
        first = first or ScanRejected(verdict.reason, f"scan {record.scan_id}: {verdict.detail}")
    assert first is not None, "catalog_records returns at least one"
    raise first


def save_pair(path: Path, scan: PreparedScan, config: PrismConfig, visit: int = 0) -> tuple[View, View]:
    """Draw the pair that training with ``config`` gets at a visit of a scan's first epoch, and return it."""
    volume = open_prepared(scan, config)
    key = VisitKey(scan.record.scan_id, 0, visit)
    pair = draw_pair(
        volume.affine, volume.shape, volume.stats, config.view, config.data.n_patches, config.train.seed, key
    )
    save_panel(path, volume, scan, pair, config.data.patch_mm)
    return pair


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the picture and print the targets in words; 0 when there is one."""
    given = _parser().parse_args(arguments)
    console, errors = Console(), Console(stderr=True)
    try:
        config = catalog_config(given.catalog, given.n_scans, train_seed=given.seed)
        records = catalog_records(config)
        if given.list:
            for record in records:
                console.print(f"{record.scan_id}  {record.modality}", highlight=False)
            return 0
        wanted = records if given.scan is None else [find_record(records, given.scan)]
        scan = prepared_scan(wanted, config)
        pair = save_pair(Path(given.out), scan, config, given.visit)
    except (PrismError, OSError) as error:
        errors.print(f"{type(error).__name__}: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        return 1
    unit = "HU" if scan.record.modality == "CT" else "units"
    console.print(f"scan {scan.record.scan_id}, visit {given.visit}, seed {given.seed}: {given.out}", highlight=False)
    console.print(pair_in_words(*pair, unit), highlight=False, markup=False, soft_wrap=True)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m prism_ssl.eval.inspect_views", description="Draw a pair of views where they lie in their scan."
    )
    parser.add_argument("catalog", help="table of the archive (.csv, .csv.gz or .parquet)")
    parser.add_argument("--scan", help="scan id (see --list); default: the first usable one")
    parser.add_argument("--out", default="view.png", help="PNG to write")
    parser.add_argument("--visit", type=int, default=0, help="which pair of the scan")
    parser.add_argument("--seed", type=int, default=0, help="train.seed of the run")
    parser.add_argument("--n-scans", type=int, default=5000, help="how many scans to select, in seeded hash order")
    parser.add_argument("--list", action="store_true", help="print the scan ids and stop")
    return parser


if __name__ == "__main__":
    sys.exit(main())
