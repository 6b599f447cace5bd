"""Pictures of a run, drawn beside the training: a failure to draw is an event of its history, never its end."""

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
    """The view panel while the block lasts, and at its end the plots where the training worker could draw none.

    The driver has nothing else to do meanwhile: drawing overlaps with the start of the workers.

    Args:
        run_dir: where the pictures go; the events go into its history.
        config: of the run.
        scan: one of the training scans, whose first pair is shown; a panel that is there already is kept.
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
        """Beside this thread; no result is asked for. A machine that gives no thread more gets no picture."""
        with suppress(RuntimeError):
            self._thread.submit(draw, *arguments)

    def _draw_panel(self) -> None:
        from prism_ssl.inspect.command import save_pair  # matplotlib only where it is drawn with

        save_pair(self._run_dir / PANEL_FILE, self._scan, self._config)


def draw_plots(run_dir: Path) -> None:
    """The plots of the history up to its last row, unless they are there; the history says where, or why not."""
    try:
        rows = read_history(run_dir)
    except (OSError, ValueError):  # what cannot be read cannot be drawn; who needs the rows themselves will say so
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
    """Call ``draw`` and note in the history that ``place`` was drawn at ``step``, or why it was not; raises nothing."""
    event, text = kind, place
    try:
        draw()
    except Exception as error:  # noqa: BLE001  a picture is no reason to lose a run: noted as an event
        # other errors may quote a path of the archive, which must not enter the history
        why = f": {error}" if isinstance(error, PrismError) else ""
        event, text = f"{kind}_failed", f"{place} was not drawn: {type(error).__name__}{why}"
    with suppress(OSError):  # where not even an event can be written, the summary must still be tried
        record = LocalRecord(run_dir)
        record.event(step, event, text)
        record.close()
