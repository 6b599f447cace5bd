"""Draw a pair of views, the input of the encoder: ``prism inspect CATALOG --scan ID --out view.png``."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rich.console import Console

from prism_ssl.cli.catalog_options import EXIT_NO, EXIT_OK, add_catalog_options, catalog_settings, refused
from prism_ssl.config.schema import PrismConfig, TrainConfig
from prism_ssl.contracts import PreparedScan, ScanRecord, VisitKey
from prism_ssl.data.catalog import series_texts
from prism_ssl.data.checks import catalog_records, check_scan, open_prepared
from prism_ssl.data.scan import read_header, read_within
from prism_ssl.data.views import View, draw_training_pair, scene_of
from prism_ssl.errors import CatalogError, PrismError, ScanRejected
from prism_ssl.inspect.view_panel import save_panel
from prism_ssl.inspect.view_words import pair_in_words, unit_of


def find_record(records: Sequence[ScanRecord], scan_id: str) -> ScanRecord:
    """The record of a scan; raises ``CatalogError``, which names the most similar id, for an unknown one."""
    by_id = {record.scan_id: record for record in records}
    if scan_id not in by_id:
        near = difflib.get_close_matches(scan_id, by_id, n=1)
        hint = f"the nearest is {near[0]!r}; " if near else ""
        raise CatalogError(
            f"no scan {scan_id!r} among the {len(by_id)} selected ones; {hint}"
            "--list prints all of them, --data.n-scans selects more"
        )
    return by_id[scan_id]


def prepared_scan(records: Sequence[ScanRecord], config: PrismConfig) -> PreparedScan:
    """The first record that passes preflight's checks; if none does, raises the ``ScanRejected`` of the first."""
    first: ScanRejected | None = None
    for record in records:
        verdict = check_scan(record, config)
        if verdict.reason is None:
            return verdict.prepared(record)
        first = first or ScanRejected(verdict.reason, f"scan {record.scan_id}: {verdict.detail}")
    assert first is not None, "catalog_records returns at least one"
    raise first


def save_pair(path: Path, scan: PreparedScan, config: PrismConfig, visit: int = 0) -> tuple[View, View]:
    """Draw the pair that training with ``config`` gets at a visit of a scan's first epoch, and return it.

    Both views come from this scan, also where training would take one from another series; curves are left out.
    """
    volume = read_within(config.data.open_timeout_s, lambda: open_prepared(scan, config))
    key, seed = VisitKey(scan.record.scan_id, 0, visit), config.train.seed
    scene = scene_of(volume, None, config.view, seed, scan.record.scan_id)
    pair = draw_training_pair(scene, config.view, config.data.n_patches, seed, key)
    save_panel(path, pair.scans[0], scan, pair.views, config.data.patch_mm)
    return pair.views


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the picture and print the targets in words; 0 when there is one, else as ``catalog_options`` says."""
    given = _parser().parse_args(arguments)
    try:
        data = catalog_settings(given)
        config = PrismConfig(data=data, train=TrainConfig(seed=given.seed))
        records = catalog_records(config)
        if given.list:
            _list(records, config)
            return EXIT_OK
    except (PrismError, OSError) as error:
        return refused(error)
    try:
        wanted = records if given.scan is None else [find_record(records, given.scan)]
        scan = prepared_scan(wanted, config)
        pair = save_pair(Path(given.out), scan, config, given.visit)
    except (PrismError, OSError) as error:
        return refused(error, EXIT_NO)
    unit, console = unit_of(scan.record), Console()
    told = f"scan {scan.record.scan_id}, visit {given.visit}, seed {given.seed}: {given.out}"
    for text in (told, pair_in_words(*pair, unit)):
        console.print(text, highlight=False, markup=False, soft_wrap=True)
    return EXIT_OK


def _list(records: Sequence[ScanRecord], config: PrismConfig) -> None:
    """Print a line a scan: id, modality, shape and description from the table, for this screen only."""
    texts = series_texts(config.data, records)
    with ThreadPoolExecutor(16) as threads:  # each look-up on a network archive takes milliseconds
        shapes = list(threads.map(_shape_in_words, records))
    for record, shape in zip(records, shapes, strict=True):
        line = f"{record.scan_id}  {record.modality}  {shape:>17}  {texts[record.scan_id]}"
        Console().print(line.rstrip(), markup=False, highlight=False, soft_wrap=True)
    patients = len({record.subject_id for record in records})
    told = f"{len(records)} scans of {patients} patients; the descriptions are for this machine and enter no record"
    Console(stderr=True).print(told, highlight=False, soft_wrap=True)


def _shape_in_words(record: ScanRecord) -> str:
    try:
        return " x ".join(map(str, read_header(record.nifti_path).shape))
    except (ScanRejected, OSError) as error:
        return error.reason if isinstance(error, ScanRejected) else "not readable"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="prism inspect", description="Draw a pair of views where they lie in their scan."
    )
    add_catalog_options(parser, n_scans=5000)
    parser.add_argument("--scan", help="scan id (see --list); default: the first usable one")
    parser.add_argument("--out", default="view.png", help="PNG to write")
    parser.add_argument("--visit", type=int, default=0, help="which pair of the scan")
    parser.add_argument("--seed", type=int, default=0, help="train.seed of the run")
    parser.add_argument("--list", action="store_true", help="print ids, shapes and descriptions of the scans and stop")
    return parser


if __name__ == "__main__":
    sys.exit(main())
