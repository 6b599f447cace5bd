"""Draw fields beside their scans: ``prism picture CATALOG --fields fields --scan ID --beside ID --out picture.png``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from prism_ssl.cli.catalog_options import EVERY_SCAN, EXIT_NO, EXIT_OK, add_catalog_options, catalog_settings, refused
from prism_ssl.config.schema import DataConfig
from prism_ssl.contracts import ScanRecord
from prism_ssl.data.catalog import load_records
from prism_ssl.errors import CatalogError, ConfigError, PrismError
from prism_ssl.explore.field.picture import draw_fields
from prism_ssl.explore.field.shown_scan import with_field_of
from prism_ssl.utils.fs import write_atomic


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the picture and say what it shows; 0 when there is one, else as ``catalog_options`` says."""
    given = _parser().parse_args(arguments)
    try:
        records = _records(catalog_settings(given), [given.scan, *([given.beside] if given.beside else [])])
        if given.at is not None and not np.isfinite(given.at).all():
            raise ConfigError(f"--at is {' '.join(map(str, given.at))}; needed: three numbers, RAS mm")
    except (PrismError, OSError) as error:
        return refused(error)
    try:
        scans = [with_field_of(record, Path(given.fields)) for record in records]
        picture, lines = draw_fields(scans, given.at, given.show)
        write_atomic(Path(given.out), picture)
    except (PrismError, OSError) as error:
        return refused(error, EXIT_NO)
    print("\n".join([*lines, given.out]))  # noqa: T201
    return EXIT_OK


def _records(data: DataConfig, wanted: Sequence[str]) -> list[ScanRecord]:
    records = {record.scan_id: record for record in load_records(data, data.selection_seed).records}
    if unknown := [scan_id for scan_id in wanted if scan_id not in records]:
        told = f"no scan {unknown[0]!r} among the {len(records)} of {data.catalog_path}"
        raise CatalogError(f"{told}; the fields are named by their scans' ids, and prism inspect --list prints all")
    return [records[scan_id] for scan_id in wanted]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="prism picture",
        description="Draw the fields of one scan or of two beside their slices: as colours of one basis, in which "
        "equal colours are similar vectors; or the similarity of one point to all others.",
    )
    add_catalog_options(parser, n_scans=EVERY_SCAN)
    parser.add_argument("--fields", default="fields", metavar="FOLDER", help="folder of prism field")
    parser.add_argument("--scan", required=True, metavar="ID", help="scan id: a field's name without .nii.gz")
    parser.add_argument("--beside", metavar="ID", help="another scan, such as another modality of the same patient")
    told = "what to draw (default: colours)"
    parser.add_argument("--show", choices=("colours", "similarity"), default="colours", help=told)
    at = "RAS mm: where the planes through the scan cross, and the point asked for (default: the middle)"
    parser.add_argument("--at", nargs=3, type=float, metavar=("X", "Y", "Z"), help=at)
    parser.add_argument("--out", default="picture.png", help="PNG to write")
    return parser


if __name__ == "__main__":
    sys.exit(main())
