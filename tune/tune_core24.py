"""Run the core ablation: ``prism sweep``, or ``python tune/tune_core24.py [--section.key value ...]``."""

from __future__ import annotations

if __name__ == "__main__":  # before all other imports, which take seconds
    from prism_ssl.utils.stop_signals import leave_on_stop_signals

    leave_on_stop_signals()

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

import tyro
from rich.console import Console

from prism_ssl.config.defaults import RECIPES
from prism_ssl.config.schema import PrismConfig
from prism_ssl.config.tracking_environment import settled, tracking_words
from prism_ssl.errors import PrismError
from prism_ssl.train.guards.space_plan import space_words
from prism_ssl.utils.fs import temporary_root
from prism_ssl.utils.ray_cluster.session import ray_environment
from prism_ssl.utils.stop_signals import EXIT_INTERRUPTED, leave, stop_signals_interrupt
from prism_ssl.utils.terminal import failsafe_output
from tune.command_line import load_settings, take_config_file, wants_short_help
from tune.core24 import BASE_RECIPES, Design, Scale
from tune.restarts import sweep_with_restarts
from tune.sweep.folder import Sweep, with_max_steps
from tune.sweep.report import conclude, say


@dataclass(frozen=True)
class Command:
    """Train the cells of the core ablation, one after another, and rank them.

    Run the same command again to resume: finished trials are left alone, the others continue from their last
    checkpoint.
    """

    base: Annotated[PrismConfig, tyro.conf.arg(name="")]
    """What all cells share; the five factors are set by the design."""
    scale: Scale = "full"
    """full: the guide's values. smoke: every cell tiny, on a laptop, in the same code path."""
    design: Design = "half"
    """half: 24 balanced runs, 12 of each objective. full: 48. regression, classification: the plain 24 of one."""
    max_steps: int | None = None
    """Steps of every trial, in place of the scale's."""
    only: tuple[str, ...] = field(default_factory=tuple)
    """Names of the cells to run, * and ? allowed, such as 'b64-*-reg'."""


_PROG = "prism sweep"
_SHORT_HELP = f"""\
usage: {_PROG} [--scale full|smoke] [--only CELL ...] [--section.key VALUE ...]

Trains the cells of the core ablation one after another, and ranks them.
Run the same command again to resume.

  --scale full|smoke     full: the guide's values; smoke: every cell tiny, for a laptop
  --design NAME          half: 24 balanced runs; full: 48; regression, classification:
                         the 24 runs of one objective
  --only CELL ...        names of the cells to run, * and ? allowed: 'b64-*-reg'
  --max-steps N          steps of every trial
  --config FILE          settings that all cells share, as JSON or YAML
  --data.catalog-path FILE   table of scans; without it: phantoms (smoke only)
  --run.name NAME        name of the sweep's folder
  --tracking.mode MODE   W&B: online, offline or disabled

All settings: {_PROG} --help-all"""


@dataclass(frozen=True)
class _ScaleFirst:
    scale: Scale = "full"


def parse(arguments: Sequence[str] | None = None) -> Sweep:
    """The sweep of a command line."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given and wants_short_help(given):
        print(_SHORT_HELP)  # noqa: T201  help goes to stdout, without colours
        raise SystemExit(0)
    file, given = take_config_file(given)
    first, _ = tyro.cli(_ScaleFirst, args=given, return_unknown_args=True, add_help=False)
    base = load_settings(file) if file else RECIPES[BASE_RECIPES[first.scale]]()
    command = tyro.cli(Command, args=given, default=Command(base=base, scale=first.scale), prog=_PROG)
    base = with_max_steps(command.base, command.max_steps)
    return Sweep(base, command.scale, command.design, command.only, settled(base.tracking))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the unfinished cells, then rank; 0 when every requested cell has ended ok, 75 when it stopped early."""
    with failsafe_output(), stop_signals_interrupt():
        console, errors = Console(), Console(stderr=True)
        try:
            return _run(parse(arguments), console)
        except (PrismError, OSError) as error:
            errors.print(f"{type(error).__name__}: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
            return 1
        except KeyboardInterrupt:
            errors.print("interrupted before a trial began; run the same command again to resume", style="yellow")
            return EXIT_INTERRUPTED


def _run(sweep: Sweep, console: Console) -> int:
    with sweep.claimed():
        pending, interrupted = sweep.pending(), False
        say(console, tracking_words(sweep.base.tracking))
        say(console, f"sweep {sweep.name}: {len(sweep.points)} trials, {len(pending)} to run, in {sweep.folder}")
        if pending:
            say(console, space_words([sweep.config(p) for p in pending], [*map(sweep.run_dir, pending)], in_sweep=True))
            with ray_environment(temporary_root(sweep.base.run.tmp_root)):
                from tune.sweep.run import run_sweep  # Ray reads its environment when it is first imported

                interrupted = sweep_with_restarts(
                    lambda cells: run_sweep(sweep, cells, console), sweep, pending, lambda text: say(console, text)
                )
        conclude(sweep, console)
        if not sweep.pending():
            return 0
        return EXIT_INTERRUPTED if interrupted else 1


if __name__ == "__main__":
    leave(main())
