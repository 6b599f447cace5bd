"""The options about a table of scans and the exit codes, the same for every tool that reads one."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from rich.console import Console

from prism_ssl.config.schema import DataConfig
from prism_ssl.errors import ConfigError

EVERY_SCAN = 2**31
"""``n_scans`` of a tool that takes all scans of a table unless told otherwise."""

EXIT_OK, EXIT_NO, EXIT_REFUSED = 0, 1, 2
"""Exit codes: success; the tool ran, and its answer is no (a leak, no embedding, no such scan); it could not run."""


def add_catalog_options(parser: argparse.ArgumentParser, n_scans: int) -> None:
    """Add options for the table (positional, or as an option), the names of its columns, and the scans to select.

    They have the names of ``train_single`` and short ones. ``n_scans`` is the default number of scans.
    """
    group = parser.add_argument_group("table of scans")
    table = "table of the archive (.csv, .csv.gz or .parquet)"
    group.add_argument("table", nargs="?", metavar="CATALOG", help=table)
    group.add_argument("--data.catalog-path", "--catalog", dest="catalog", metavar="CATALOG", help="the same")
    group.add_argument(
        "--data.columns",
        dest="columns",
        nargs="+",
        default=[],
        metavar=("OURS THEIRS", "OURS THEIRS"),
        help="names of columns where they differ, such as: pmbb_id mrn modality Modality",
    )
    group.add_argument(
        "--column", dest="pairs", action="append", default=[], metavar="OURS=THEIRS", help="the same; may be repeated"
    )
    group.add_argument(
        "--data.n-scans",
        "--n-scans",
        dest="n_scans",
        type=int,
        default=n_scans,
        metavar="N",
        help=f"at most so many scans, in seeded hash order (default: {n_scans})",
    )
    group.add_argument(
        "--data.modality-filter",
        "--modality",
        dest="modalities",
        nargs="+",
        default=["CT", "MR"],
        metavar="MODALITY",
        help="modalities to keep (default: CT MR)",
    )


def catalog_settings(given: argparse.Namespace, selection_seed: int = 0) -> DataConfig:
    """The settings that the options of ``add_catalog_options`` ask for.

    Raises:
        ConfigError: no table is named, or two, or the columns are not told in pairs.
    """
    if (given.table is None) == (given.catalog is None):
        found = "no table is named" if given.table is None else "two tables are named"
        raise ConfigError(f"{found}; needed: one, as CATALOG or --data.catalog-path CATALOG")
    return DataConfig(
        catalog_path=given.table or given.catalog,
        columns=column_map(given.columns, given.pairs),
        n_scans=given.n_scans,
        modality_filter=tuple(given.modalities),
        selection_seed=selection_seed,
    )


def refused(error: Exception, code: int = EXIT_REFUSED) -> int:
    """Say on stderr why nothing came of it; returns the exit ``code``."""
    text = f"{type(error).__name__}: {error}"
    Console(stderr=True).print(text, style="red", markup=False, highlight=False, soft_wrap=True)
    return code


def column_map(words: Sequence[str], pairs: Sequence[str] = ()) -> dict[str, str]:
    """Our name -> the table's, from ``words`` (OURS THEIRS ...) and ``pairs`` (OURS=THEIRS).

    Raises:
        ConfigError: a name in ``words`` or a side of a pair is missing.
    """
    if len(words) % 2:
        raise ConfigError(
            f"--data.columns has {len(words)} names; needed: pairs, such as pmbb_id mrn modality Modality"
        )
    if bad := [pair for pair in pairs if not all(pair.partition("="))]:
        raise ConfigError(f"--column {bad[0]!r} has no meaning; needed: OURS=THEIRS, such as pmbb_id=mrn")
    return dict(zip(words[::2], words[1::2], strict=True)) | dict(pair.partition("=")[::2] for pair in pairs)
