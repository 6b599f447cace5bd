"""Progress of a job that embeds points: points and scans done, and the time left."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn


class PointProgress:
    """A progress bar, if stderr is a terminal.

    A scan's points are known once it is open; one that is not open yet counts as the mean of the others.
    """

    def __init__(self, scans: int) -> None:
        console = Console(stderr=True)
        columns = (
            TextColumn("points"),
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f}, scans {task.fields[scans]}"),
            TimeRemainingColumn(),
        )
        self._bar = Progress(*columns, console=console, disable=not (console.is_terminal and scans))
        self._task = self._bar.add_task("points", total=scans, scans=f"0/{scans}")
        self._scans, self._settled, self._open, self._points = scans, 0, 0, 0

    def __enter__(self) -> PointProgress:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def planned(self, points: int, missing: int) -> None:
        """A scan is open: it has that many points, of which some are missing."""
        self._open, self._points = self._open + 1, self._points + points
        self._bar.update(self._task, advance=points - missing, total=self._points * self._scans / self._open)

    def computed(self, points: int) -> None:
        """So many points are done."""
        self._bar.update(self._task, advance=points)

    def settled(self) -> None:
        """A scan is done, or has no vectors."""
        self._settled += 1
        self._bar.update(self._task, scans=f"{self._settled}/{self._scans}")
