"""Embed an archive: ``prism embed --catalog TABLE --checkpoint RUN --out embeddings.parquet``."""

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
from prism_ssl.errors import ConfigError
from prism_ssl.utils.stop_signals import leave
from prism_ssl.utils.time import format_duration

if TYPE_CHECKING:
    from prism_ssl.embed.job import EmbedReport


def main(arguments: Sequence[str] | None = None) -> int:
    """Embed the scans without an embedding and print a summary; returns the exit code of ``run_command``."""
    given = _parser().parse_args(arguments)
    return run_command(
        given,
        lambda data, tmp_root: _embed(given, data, tmp_root),
        lambda report, seconds: _in_words(report, Path(given.out), seconds),
    )


def _embed(given: argparse.Namespace, data: DataConfig, tmp_root: Path) -> EmbedReport:
    # Ray reads its environment at its first import.
    from prism_ssl.embed.job import embed_catalog
    from prism_ssl.embed.scan import EmbedSettings
    from prism_ssl.embed.weights import embed_config, with_weights
    from prism_ssl.model.export import read_export

    if given.views < 1:
        raise ConfigError(f"--views is {given.views}; needed: 1 or more")
    exported, _ = read_export(given.checkpoint)
    settings = EmbedSettings(embed_config(exported, data), given.views, given.seed)
    with embedding_session(2, tmp_root):
        files, width = with_weights(exported, given.weights, given.seed)
        return embed_catalog(files, settings, Path(given.out).absolute(), width=width)


def _in_words(report: EmbedReport, out: Path, seconds: float) -> list[str]:
    pace = f", {report.embedded / seconds:.1f} a second" if report.embedded else ""
    lines = [
        f"{out}: {report.rows} scans; {report.embedded} embedded now in {format_duration(seconds)}{pace}, "
        f"{report.reused} done before"
    ]
    return lines + rejected_in_words(report.rejected, "embedding", out)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="prism embed",
        description="One embedding for every scan of a catalogue. Run the same command again to resume; it embeds only "
        "scans that are new or whose file changed.",
    )
    add_catalog_options(parser, n_scans=EVERY_SCAN)
    add_encoder_options(parser)
    parser.add_argument("--out", default="embeddings.parquet", help="table to write")
    parser.add_argument("--views", type=int, default=8, help="views of each scan; the embedding is their mean")
    parser.add_argument("--seed", type=int, default=0, help="seed of the views")
    return parser


if __name__ == "__main__":
    leave(main())
