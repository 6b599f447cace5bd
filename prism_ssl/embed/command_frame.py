"""What ``prism embed`` and ``prism field`` share: options, the Ray session, how the command ends."""

from __future__ import annotations

import argparse
import contextlib
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol, TypeVar

from rich.console import Console

from prism_ssl.cli.catalog_options import EXIT_NO, EXIT_OK, catalog_settings, refused
from prism_ssl.config.schema import DataConfig
from prism_ssl.errors import PrismError
from prism_ssl.utils.fs import temporary_root
from prism_ssl.utils.gpu_check import require_usable_gpus
from prism_ssl.utils.ray_cluster.session import ray_environment, ray_session
from prism_ssl.utils.ray_cluster.stderr_filter import stderr_without
from prism_ssl.utils.stop_signals import EXIT_INTERRUPTED, stop_signals_interrupt
from prism_ssl.utils.terminal import failsafe_output

_ALL_GPUS = 2**31
_OBJECT_STORE_BYTES = 2**30


class _Report(Protocol):
    """What an embedding command reports."""

    @property
    def rows(self) -> int:
        """Rows of the table."""

    @property
    def rejected(self) -> Counter[str]:
        """Scans without a row, by reason."""


R = TypeVar("R", bound=_Report)


def add_encoder_options(parser: argparse.ArgumentParser) -> None:
    """``--checkpoint``, ``--weights`` and ``--tmp-root``."""
    parser.add_argument(
        "--checkpoint",
        required=True,
        help="a finished run's folder, a W&B artifact entity/project/name:alias, or demo: the encoder that ships with "
        "the package, trained on public scans",
    )
    told = "what embeds: the trained encoder, the same with random weights, or statistics of the pixels (a comparison)"
    parser.add_argument("--weights", choices=("trained", "random", "pixels"), default="trained", help=told)
    parser.add_argument("--tmp-root", help="folder for temporary files; default: /tmp/$USER")


def run_command(
    given: argparse.Namespace, work: Callable[[DataConfig, Path], R], in_words: Callable[[R, float], list[str]]
) -> int:
    """Do the ``work`` and print ``in_words(report, seconds)``.

    Returns 0 when the table has a row, 75 when interrupted, else as ``catalog_options`` says. ``work`` gets the
    settings of the catalogue and the folder for temporary files.
    """
    with failsafe_output(), stop_signals_interrupt():
        console, started = Console(), time.monotonic()
        try:
            data, tmp_root = catalog_settings(given), temporary_root(given.tmp_root)
            with ray_environment(tmp_root):
                os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # Ray's core calls an actor's restart an error
                report = work(data, tmp_root)
        except (PrismError, OSError) as error:
            return refused(error)
        except KeyboardInterrupt:
            Console(stderr=True).print("interrupted; run the same command again to resume", style="yellow")
            return EXIT_INTERRUPTED
        for line in in_words(report, time.monotonic() - started):
            console.print(line, markup=False, highlight=False, soft_wrap=True)
        return EXIT_OK if report.rows else EXIT_NO


@contextlib.contextmanager
def embedding_session(cpus: int, tmp_root: Path) -> Iterator[None]:
    """A Ray session with all GPUs, each of them usable."""
    with contextlib.ExitStack() as session:
        with stderr_without("Set ray log level from environment"):  # ``run_command`` sets it
            session.enter_context(ray_session(cpus, _OBJECT_STORE_BYTES, tmp_root))
        require_usable_gpus(_ALL_GPUS)
        yield


def rejected_in_words(rejected: Counter[str], lacking: str, table: Path) -> list[str]:
    """A line that says how many scans lack a row and why; none where all have one."""
    if not rejected:
        return []
    reasons = ", ".join(f"{reason} {count}" for reason, count in rejected.most_common())
    return [f"{rejected.total()} scans have no {lacking} ({reasons}); listed in {table.with_suffix('.rejected.csv')}"]
