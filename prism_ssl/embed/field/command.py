"""Embed points of scans: ``prism field CATALOG --checkpoint RUN --out fields``."""

from __future__ import annotations

if __name__ == "__main__":  # before all other imports, which take seconds
    from prism_ssl.utils.stop_signals import leave_on_stop_signals

    leave_on_stop_signals()

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from prism_ssl.cli.catalog_options import EVERY_SCAN, add_catalog_options
from prism_ssl.config.schema import DataConfig
from prism_ssl.embed.command_frame import add_encoder_options, embedding_session, rejected_in_words, run_command
from prism_ssl.embed.field.scan_field import FIELDS_TABLE, MASKS_TABLE, POINTS_TABLE
from prism_ssl.errors import ConfigError
from prism_ssl.utils.stop_signals import leave
from prism_ssl.utils.time import format_duration

if TYPE_CHECKING:
    from prism_ssl.embed.field.job import FieldReport


def main(arguments: Sequence[str] | None = None) -> int:
    """Embed what is not embedded yet and print a summary; returns the exit code of ``run_command``."""
    given = _parser().parse_args(arguments)
    return run_command(
        given,
        lambda data, tmp_root: _embed(given, data, tmp_root),
        lambda report, seconds: _in_words(report, _table(given), seconds),
    )


def _table(given: argparse.Namespace) -> Path:
    name = POINTS_TABLE if given.points else MASKS_TABLE if given.masks else FIELDS_TABLE
    return Path(given.out).absolute() / name


def _embed(given: argparse.Namespace, data: DataConfig, tmp_root: Path) -> FieldReport:
    # Ray reads its environment at its first import.
    from prism_ssl.embed.field.actor import FieldSettings
    from prism_ssl.embed.field.job import embed_points
    from prism_ssl.embed.field.requests import request_for
    from prism_ssl.embed.weights import embed_config, with_weights
    from prism_ssl.model.export import read_export

    if given.spacing < 1 or not 0 < given.coverage <= 1:
        found = f"--spacing is {given.spacing:g} and --coverage {given.coverage:g}"
        raise ConfigError(f"{found}; needed: 1 mm or more, and a share in (0, 1]")
    exported, _ = read_export(given.checkpoint)
    files, width = with_weights(exported, given.weights, given.seed)
    settings = FieldSettings(embed_config(exported, data), given.seed)
    request, words = request_for(given, data)
    Path(given.out).mkdir(mode=0o700, parents=True, exist_ok=True)
    with embedding_session(1, tmp_root):
        return embed_points(files, width, request, settings, _table(given), words)


def _in_words(report: FieldReport, table: Path, seconds: float) -> list[str]:
    pace = f" ({report.points / seconds:.0f} a second)" if report.points else ""
    lines = [
        f"{table}: {report.rows} rows; {report.points} points of {report.scans} scans embedded now in "
        f"{format_duration(seconds)}{pace}, {report.reused} scans done before"
    ]
    return lines + rejected_in_words(report.rejected, "row", table)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="prism field",
        description="The encoder at every point of a lattice over each scan of a catalogue, as a NIfTI in "
        "the scan's own frame; or at points of your own, in the labels of masks, or over the whole scan. Run the same "
        "command again to resume.",
    )
    add_catalog_options(parser, n_scans=EVERY_SCAN)
    add_encoder_options(parser)
    parser.add_argument("--out", default="fields", help="folder to write to")
    parser.add_argument("--spacing", type=float, default=8.0, metavar="MM", help="distance of the lattice's points")
    parser.add_argument("--everywhere", action="store_true", help="embed the air around the body too")
    parser.add_argument(
        "--coverage", type=float, default=0.95, metavar="SHARE", help="share of the body that a volume vector covers"
    )
    what = parser.add_mutually_exclusive_group()
    points = "table of points (.csv, .parquet): scan_id or series_path, and x_mm, y_mm, z_mm (RAS) or i, j, k (voxels)"
    what.add_argument("--points", metavar="TABLE", help=f"{points}; one vector each")
    what.add_argument("--masks", metavar="FOLDER", help="a label volume for each scan; one vector a label")
    what.add_argument("--volume", action="store_true", help="only one vector a scan, the mean over a covering")
    parser.add_argument("--seed", type=int, default=0, help="seed of the layout of the patches, the same at all points")
    return parser


if __name__ == "__main__":
    leave(main())
