"""Train one encoder: ``prism train RECIPE``, or ``python tune/train_single.py RECIPE [--section.key value ...]``."""

from __future__ import annotations

if __name__ == "__main__":  # before all other imports, which take seconds
    from prism_ssl.utils.stop_signals import leave_on_stop_signals

    leave_on_stop_signals()

from collections.abc import Sequence

from rich.console import Console

from prism_ssl.config.schema import PrismConfig
from prism_ssl.errors import PrismError
from prism_ssl.train.record.console import show_summary
from prism_ssl.utils.fs import temporary_root
from prism_ssl.utils.ray_cluster.session import ray_environment
from prism_ssl.utils.stop_signals import EXIT_INTERRUPTED, leave, stop_signals_interrupt, stop_was_asked
from prism_ssl.utils.terminal import failsafe_output
from tune.command_line import read_settings
from tune.restarts import train_with_restarts

EXIT_CODES = {"ok": 0, "interrupted": EXIT_INTERRUPTED}
"""By the status of a run; everything else is 1."""


def parse(arguments: Sequence[str] | None = None) -> PrismConfig:
    """The settings of a command line: a recipe or a file, and overrides of its keys."""
    return read_settings(arguments, "prism train")


def main(arguments: Sequence[str] | None = None) -> int:
    """Train; 0 when the run ended ok, 75 when it was interrupted and can be resumed, 1 when it failed."""
    with failsafe_output(), stop_signals_interrupt():
        console, errors = Console(), Console(stderr=True)
        try:
            config = parse(arguments)
            with ray_environment(temporary_root(config.run.tmp_root)):
                from prism_ssl.train.trainer import train  # Ray reads its environment when it is first imported

                summary = train_with_restarts(
                    lambda: train(config, console),
                    config.run.max_restarts,
                    lambda text: errors.print(text, markup=False, soft_wrap=True),
                    stop_was_asked,
                )
        except PrismError as error:
            errors.print(f"{type(error).__name__}: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
            return 1
        except KeyboardInterrupt:
            errors.print("interrupted before it trained; run the same command again to resume", style="yellow")
            return EXIT_INTERRUPTED
        show_summary(console, summary)
        return EXIT_CODES.get(summary.status, 1)


if __name__ == "__main__":
    leave(main())
