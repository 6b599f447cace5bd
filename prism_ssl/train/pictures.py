"""Pictures of a run, drawn beside the training: a failure to draw is an event of its history, never its end."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

from prism_ssl.config.schema import PrismConfig
from prism_ssl.contracts import PreparedScan
from prism_ssl.errors import PrismError
from prism_ssl.train.local_record import LocalRecord, read_history

PANEL_FILE, PLOTS_FOLDER = "view_panel.png", "plots"


class Pictures:
    """The view panel while the block lasts, and the plots of the history at its end.

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
            self._draw("view_panel", PANEL_FILE, 0, self._draw_panel)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        steps = [row["global_step"] for row in read_history(self._run_dir) if "event" not in row]
        if steps:
            self._draw("plots", PLOTS_FOLDER, steps[-1], self._draw_plots)
        # Waits without asking for results: where not even an event can be written, the summary must still be tried.
        self._thread.shutdown()

    def _draw(self, kind: str, place: str, step: int, draw: Callable[[], None]) -> None:
        drawn = self._thread.submit(draw)
        self._thread.submit(self._note, kind, place, step, drawn)

    def _note(self, kind: str, place: str, step: int, drawn: Future[None]) -> None:
        error = drawn.exception()
        # other errors may quote a path of the archive, which must not enter the history
        why = f": {error}" if isinstance(error, PrismError) else ""
        text = place if error is None else f"{place} was not drawn: {type(error).__name__}{why}"
        record = LocalRecord(self._run_dir)
        record.event(step, kind if error is None else f"{kind}_failed", text)
        record.close()

    def _draw_panel(self) -> None:
        from prism_ssl.eval.inspect_views import save_pair  # matplotlib only where it is drawn with

        save_pair(self._run_dir / PANEL_FILE, self._scan, self._config)

    def _draw_plots(self) -> None:
        from prism_ssl.eval.plots import save_plots

        save_plots(self._run_dir)
