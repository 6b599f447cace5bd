"""A progress bar over rows, with the time that is left."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Row = TypeVar("Row")


def with_progress(
    rows: Iterator[Row], total: int, title: str, good: Callable[[Row], bool], words: tuple[str, str]
) -> Iterator[Row]:
    """Yield the rows, with a progress bar if stderr is a terminal; ``words`` label good rows and the others."""
    console = Console(stderr=True)
    columns = (
        TextColumn(title),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(f"{{task.fields[good]}} {words[0]}, {{task.fields[bad]}} {words[1]}"),
        TimeRemainingColumn(),
    )
    counts = Counter[str]()
    with Progress(*columns, console=console, disable=not (console.is_terminal and total)) as progress:
        task = progress.add_task(title, total=total, good=0, bad=0)
        for row in rows:
            counts["good" if good(row) else "bad"] += 1
            progress.update(task, advance=1, good=counts["good"], bad=counts["bad"])
            yield row
