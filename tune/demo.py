"""Demo on generated phantoms in a few minutes, from scans to a ranked encoder: ``prism demo``."""

from __future__ import annotations

if __name__ == "__main__":  # before all other imports, which take seconds
    from prism_ssl.utils.stop_signals import leave_on_stop_signals

    leave_on_stop_signals()

import sys
import time
from collections.abc import Sequence
from pathlib import Path

import polars as pl
from rich.console import Console
from rich.markup import escape
from rich.panel import Panel

from prism_ssl.report.ranking_report import TABLE_FILE, TEXT_FILE
from prism_ssl.utils.fs import temporary_root
from prism_ssl.utils.stop_signals import leave, stop_signals_interrupt
from prism_ssl.utils.terminal import failsafe_output
from prism_ssl.utils.time import format_duration
from tune import tune_core24

CELLS = ("b32-p16-w0.2-*", "b64-p24-w0.2-*")
"""Four of the 24 cells: a small and a large batch and pool, each with both objectives."""

SWEEP = (
    *("--scale", "smoke", "--only", *CELLS, "--max-steps", "200", "--run.name", "demo"),
    *("--train.log-every", "50", "--train.checkpoint-every", "100", "--tracking.mode", "disabled"),
)
"""The arguments of tune_core24.py."""

_BEFORE = """\
No scans, no GPU and no account are needed. This will

  1  generate phantoms: small CT and MR scans with known anatomy, as .nii.gz files with a catalogue
  2  check every file before anything is trained on it (preflight)
  3  train four tiny encoders, one after another; every loss is printed as value/chance level
  4  evaluate each on scans of patients that it was not trained on, and rank them

It takes three to five minutes on two cores. Ctrl-C is safe: run the same command again to resume."""

_AFTER = """\
[bold]What you have now[/]
  the ranking          {folder}/{ranking}
  the best encoder     {best}/encoder.safetensors, with a model card beside it
  how it learned       {best}/plots

[bold]Look at the runs[/] (opens in your browser)
  {prism} notebook runs -- --runs {folder}

[bold]Use the encoder[/]: one embedding per scan (here of the phantoms)
  {prism} embed --catalog {catalog} \\
      --checkpoint {best} --out embeddings.parquet

[bold]Train on your own scans[/]
  {prism} train phantom-cpu --data.catalog-path TABLE

The four runs are tiny: they show how it works, not which settings are best.
make train trains one encoder that has learned something, in three minutes.
docs/tour.md explains what you just saw; docs/own-data.md explains what your table needs."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Train and rank the four cells, and print what to look at; returns the sweep's exit code."""
    with failsafe_output(), stop_signals_interrupt():
        return _demo(arguments)


def _demo(arguments: Sequence[str] | None) -> int:
    console, started = Console(), time.monotonic()
    more = list(sys.argv[1:] if arguments is None else arguments)
    if {"-h", "--help"} & set(more):
        console.print(f"usage: prism demo [OPTIONS of prism sweep]\n\n{_BEFORE}", markup=False, highlight=False)
        return 0
    sweep = tune_core24.parse([*SWEEP, *more])
    console.print(Panel(_BEFORE, title="PRISM SSL demo", title_align="left", expand=False))
    code = tune_core24.main([*SWEEP, *more])
    if code == 0:
        from prism_ssl.data.archive import select_scans  # imports Ray, which reads its environment then

        catalog = select_scans(sweep.base, temporary_root(sweep.base.run.tmp_root)).catalog
        best = sweep.folder / pl.read_parquet(sweep.folder / TABLE_FILE, glob=False)["run"][0]
        here = Path.cwd()
        prism = Path(sys.prefix) / "bin" / "prism"
        shown = {"folder": sweep.folder, "best": best, "catalog": catalog, "prism": prism}
        words = {name: escape(_from(here, path)) for name, path in shown.items()} | {"ranking": TEXT_FILE}
        # Without a frame, so that the lines can be copied.
        console.rule(f"done in {format_duration(time.monotonic() - started)}", align="left")
        console.print(_AFTER.format(**words), highlight=False, soft_wrap=True)
    return code


def _from(here: Path, path: Path) -> str:
    """``path`` relative to ``here`` if it lies below it."""
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


if __name__ == "__main__":
    leave(main())
