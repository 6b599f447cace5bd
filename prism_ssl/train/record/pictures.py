"""Draw a run's view panel and plots in the background; a failure to draw becomes an event of the history."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from prism_ssl.config.schema import PrismConfig
from prism_ssl.contracts import PreparedScan
from prism_ssl.errors import PrismError
from prism_ssl.records.run_files import LocalRecord, read_history

PANEL_FILE, PLOTS_FOLDER = "view_panel.png", "plots"


class Pictures:
    """Draws the view panel during the block, and after it the plots if the training worker could not draw them.

    Drawing overlaps with the start of the workers, while the driver has nothing else to do.

    Args:
        run_dir: where the pictures go; the events go into its history.
        config: settings of the run.
        scan: a training scan; its first pair is drawn, unless the panel exists already.
    """

    def __init__(self, run_dir: Path, config: PrismConfig, scan: PreparedScan) -> None:
        self._run_dir, self._config, self._scan = run_dir, config, scan
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="pictures")

    def __enter__(self) -> Pictures:
        if not (self._run_dir / PANEL_FILE).exists():
            self._draw(draw_noting, self._run_dir, "view_panel", PANEL_FILE, 0, self._draw_panel)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._draw(draw_plots, self._run_dir)
        self._thread.shutdown()

    def _draw(self, draw: Callable[..., None], *arguments: Any) -> None:
        """Draw in the background. If no thread can be started, there is no picture."""
        with suppress(RuntimeError):
            self._thread.submit(draw, *arguments)

    def _draw_panel(self) -> None:
        from prism_ssl.inspect.command import save_pair  # imports matplotlib, so only when drawing

        save_pair(self._run_dir / PANEL_FILE, self._scan, self._config)


def draw_plots(run_dir: Path) -> None:
    """Draw the plots unless they show the last row of the history already; an event says where, or why not."""
    try:
        rows = read_history(run_dir)
    except (OSError, ValueError):  # readers that need the rows themselves report this
        return
    steps = [row["global_step"] for row in rows if "event" not in row]
    drawn = [row["global_step"] for row in rows if row.get("event") == "plots"]
    if not steps or drawn[-1:] == steps[-1:]:
        return

    def draw() -> None:
        from prism_ssl.report.plots import save_plots

        save_plots(run_dir)

    draw_noting(run_dir, "plots", PLOTS_FOLDER, steps[-1], draw)


def draw_noting(run_dir: Path, kind: str, place: str, step: int, draw: Callable[[], None]) -> None:
    """Call ``draw`` and record in the history that ``place`` was drawn at ``step``, or why not; raises nothing."""
    event, text = kind, place
    try:
        draw()
    except Exception as error:  # noqa: BLE001  recorded as an event; a picture must not end a run
        # other errors may quote a path of the archive, which must not enter the history
        why = f": {error}" if isinstance(error, PrismError) else ""
        event, text = f"{kind}_failed", f"{place} was not drawn: {type(error).__name__}{why}"
    with suppress(OSError):  # the summary must still be written when the event cannot be
        record = LocalRecord(run_dir)
        record.event(step, event, text)
        record.close()
