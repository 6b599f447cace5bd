"""Embed an archive: ``prism embed --catalog TABLE --checkpoint RUN --out embeddings.parquet``."""

from __future__ import annotations

if __name__ == "__main__":  # before all other imports, which take seconds
    from prism_ssl.utils.stop_signals import leave_on_stop_signals

    leave_on_stop_signals()

import argparse
import contextlib
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from prism_ssl.cli.catalog_options import EXIT_NO, EXIT_OK, add_catalog_options, catalog_settings, refused
from prism_ssl.config.schema import DataConfig
from prism_ssl.errors import ConfigError, PrismError
from prism_ssl.utils.fs import temporary_root
from prism_ssl.utils.gpu_check import require_usable_gpus
from prism_ssl.utils.ray_cluster.session import ray_environment, ray_session
from prism_ssl.utils.ray_cluster.stderr_filter import stderr_without
from prism_ssl.utils.stop_signals import EXIT_INTERRUPTED, leave, stop_signals_interrupt
from prism_ssl.utils.terminal import output_that_ends_nothing
from prism_ssl.utils.time import format_duration

if TYPE_CHECKING:
    from prism_ssl.embed.job import EmbedReport

EVERY_SCAN = 2**31
ALL_GPUS = 2**31
OBJECT_STORE_BYTES = 2**30


def main(arguments: Sequence[str] | None = None) -> int:
    """Embed the scans without an embedding and print a summary; 0 when at least one scan has an embedding, 75 when
    interrupted (the same command resumes), else as ``catalog_options`` says."""
    given = _parser().parse_args(arguments)
    with output_that_ends_nothing(), stop_signals_interrupt():
        console, started = Console(), time.monotonic()
        try:
            data, tmp_root = catalog_settings(given), temporary_root(given.tmp_root)
            with ray_environment(tmp_root):
                report = _embed(given, data, tmp_root)
        except (PrismError, OSError) as error:
            return refused(error)
        except KeyboardInterrupt:
            Console(stderr=True).print("interrupted; run the same command again to resume", style="yellow")
            return EXIT_INTERRUPTED
        for line in _in_words(report, Path(given.out), time.monotonic() - started):
            console.print(line, markup=False, highlight=False, soft_wrap=True)
        return EXIT_OK if report.rows else EXIT_NO


def _embed(given: argparse.Namespace, data: DataConfig, tmp_root: Path) -> EmbedReport:
    # Ray reads its environment at its first import. Its core logs the restart of an actor as an error.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    from prism_ssl.embed.job import embed_catalog
    from prism_ssl.embed.scan import EmbedSettings
    from prism_ssl.embed.weights import embed_config, with_weights
    from prism_ssl.model.export import read_export

    if given.views < 1:
        raise ConfigError(f"--views is {given.views}; needed: 1 or more")
    exported, _ = read_export(given.checkpoint)
    settings = EmbedSettings(embed_config(exported, data), given.views, given.seed)
    with contextlib.ExitStack() as session:
        with stderr_without("Set ray log level from environment"):  # set above
            session.enter_context(ray_session(2, OBJECT_STORE_BYTES, tmp_root))
        require_usable_gpus(ALL_GPUS)
        files, width = with_weights(exported, given.weights, given.seed)
        return embed_catalog(files, settings, Path(given.out).absolute(), width=width)


def _in_words(report: EmbedReport, out: Path, seconds: float) -> list[str]:
    pace = f", {report.embedded / seconds:.1f} a second" if report.embedded else ""
    lines = [
        f"{out}: {report.rows} scans; {report.embedded} embedded now in {format_duration(seconds)}{pace}, "
        f"{report.reused} done before"
    ]
    if report.rejected:
        reasons = ", ".join(f"{reason} {count}" for reason, count in report.rejected.most_common())
        listed = out.with_suffix(".rejected.csv")
        lines.append(f"{report.rejected.total()} scans have no embedding ({reasons}); listed in {listed}")
    return lines


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="prism embed",
        description="One embedding for every scan of a catalogue. Run the same command again to resume; it embeds only "
        "scans that are new or whose file changed.",
    )
    add_catalog_options(parser, n_scans=EVERY_SCAN)
    parser.add_argument(
        "--checkpoint",
        required=True,
        help="a finished run's folder, a W&B artifact entity/project/name:alias, or demo: the encoder that ships with "
        "the package, trained on public scans",
    )
    parser.add_argument("--out", default="embeddings.parquet", help="table to write")
    parser.add_argument("--views", type=int, default=8, help="views of each scan; the embedding is their mean")
    parser.add_argument("--seed", type=int, default=0, help="seed of the views")
    add_weights_option(parser)
    parser.add_argument("--tmp-root", help="folder for temporary files; default: /tmp/$USER")
    return parser


def add_weights_option(parser: argparse.ArgumentParser) -> None:
    """``--weights``: what to embed with, for a comparison."""
    told = "what embeds: the trained encoder, the same with random weights, or statistics of the pixels (a comparison)"
    parser.add_argument("--weights", choices=("trained", "random", "pixels"), default="trained", help=told)


if __name__ == "__main__":
    leave(main())
