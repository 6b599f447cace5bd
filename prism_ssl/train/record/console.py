"""Console output of a run: step lines, a progress bar, and the summary at its end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from prism_ssl.contracts import RunSummary
from prism_ssl.records.run_files import HISTORY_FILE, PROBE_PREFIX, is_probe
from prism_ssl.report.held_out_tables import held_out_tables, verdict
from prism_ssl.utils.json_lines import parse_lines
from prism_ssl.utils.time import format_duration

_POLL_S = 0.3
_LAST_ROWS_S = 30.0


class HistoryFollower:
    """Reads the lines that are appended to a history file from now on; an incomplete last line is read later."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = path.stat().st_size if path.exists() else 0

    def new_rows(self) -> list[dict[str, Any]]:
        """Rows since the last call."""
        if not self._path.exists():
            return []
        if self._path.stat().st_size < self._offset:
            self._offset = 0  # the run resumed at an earlier step, and its history was truncated
        with self._path.open("rb") as file:
            file.seek(self._offset)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        return parse_lines(whole, "global_step").rows


class LiveView:
    """Shows a run's history on the console while the block lasts; a display error is reported and does not end it."""

    def __init__(self, console: Console, run_dir: Path, first_step: int, max_steps: int) -> None:
        self._console = console
        self._follower = HistoryFollower(run_dir / HISTORY_FILE)
        self._progress = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[rate]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._task: TaskID = self._progress.add_task("training", total=max_steps, completed=first_step, rate="")
        self._stop = Event()
        self._problem: Exception | None = None
        self._thread = Thread(target=self._run, name="live-view", daemon=True)

    def __enter__(self) -> LiveView:
        with self._telling():
            self._progress.start()
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        with self._telling():
            if self._thread.ident is not None:
                self._thread.join(_LAST_ROWS_S)
            if self._thread.is_alive():
                text = f"the last rows could not be read within {_LAST_ROWS_S:.0f} s; the run folder's disk may hang"
                self._progress.console.print(text, style="yellow")
            self._progress.stop()
        if self._problem is not None:
            with suppress(Exception):
                self._console.print(
                    f"the progress view ended early ({type(self._problem).__name__}: {self._problem}); "
                    f"the run's rows are in {HISTORY_FILE}",
                    style="yellow",
                    markup=False,
                    soft_wrap=True,
                )

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """Keep an error of the display and report it at the end; it must not end the run."""
        try:
            yield
        except Exception as error:  # noqa: BLE001  kept in _problem, which __exit__ reports
            self._problem = self._problem or error

    def _run(self) -> None:
        with self._telling():
            while not self._stop.wait(_POLL_S):
                self._show_new()
            self._show_new()

    def _show_new(self) -> None:
        for row in self._follower.new_rows():
            if "event" in row:
                text = escape(row["text"])  # "[Errno 2]" is not markup
                self._progress.console.print(
                    f"[yellow]{row['event']}[/] at step {row['global_step']}: {text}", soft_wrap=True
                )
            elif is_probe(row):
                self._progress.console.print(evaluation_line(row), highlight=False, markup=False, soft_wrap=True)
            else:
                self._progress.console.print(step_line(row), highlight=False, markup=False, soft_wrap=True)
                self._progress.update(self._task, completed=row["global_step"], rate=_rate(row))


def step_line(row: dict[str, Any]) -> str:
    """A history row as one line: each loss beside its chance level, throughput, and the share of time spent waiting."""
    names = [key.removeprefix("chance/") for key in row if key.startswith("chance/")]
    losses = "  ".join(f"{name} {_sci(row.get(f'loss/{name}'))}/{_sci(row.get(f'chance/{name}'))}" for name in names)
    return f"step {row['global_step']:>6}  {losses}  {_rate(row)}"


def evaluation_line(row: dict[str, Any]) -> str:
    """A held-out evaluation as one line: place and series beside chance and the untrained encoder, skill, quality."""
    place, place_chance, place_untrained, recall, chance, untrained, skill, quality, low, high = (
        f"{value:.2f}" if _known(value := row.get(f"{PROBE_PREFIX}{name}")) else "-"
        for name in (
            "place_recall_at_1",
            "place_recall_at_1_chance",
            "place_recall_at_1_random_init",
            "recall_at_1",
            "recall_at_1_chance",
            "recall_at_1_random_init",
            "pose_skill_mean",
            "proxy_quality",
            "proxy_quality_low",
            "proxy_quality_high",
        )
    )
    places = f"same place {place} (chance {place_chance}, untrained {place_untrained})  " if place != "-" else ""
    return (
        f"step {row['global_step']:>6}  held out: {places}recall@1 {recall} (chance {chance}, untrained {untrained})  "
        f"shift and rotation {skill}  proxy quality {quality} [{low}, {high}]"
    )


def show_summary(console: Console, summary: RunSummary) -> None:
    """Print the summary of a run and where its files are; a display error is not raised."""
    try:
        _show(console, summary)
    except Exception as error:  # noqa: BLE001  a display error must not change how the run ended
        with suppress(Exception):
            told = f"{summary.run}: {summary.status} at step {summary.steps_done}; its summary cannot be shown here"
            console.print(f"{told} ({type(error).__name__}: {error}); it is in {summary.run_dir}", markup=False)


def _show(console: Console, summary: RunSummary) -> None:
    colour = {"ok": "green", "interrupted": "yellow"}.get(summary.status, "red")
    console.print(
        f"\n[bold]{escape(summary.run)}[/]: [bold {colour}]{summary.status}[/] at step "
        f"{summary.steps_done} of {summary.max_steps}",
        highlight=False,
    )
    if summary.cause:
        console.print(summary.cause, style=colour, markup=False, highlight=False)
    if summary.losses:
        console.print(_loss_table(summary))
    for table in held_out_tables(summary.probe, proven=not summary.data.get("held_out_unproven")):
        console.print(table)
    if summary.totals:
        console.print(_facts_table(summary))
    if (finding := verdict(summary.probe)) is not None:
        console.print(f"[yellow]held out[/]: {escape(finding)}")
    for alarm in summary.alarms:
        console.print(f"[yellow]alarm[/]: {escape(alarm)}")
    if summary.not_judged:
        console.print(f"[yellow]alarms[/]: {escape(summary.not_judged)}")
    console.print(f"run folder  {summary.run_dir}", markup=False, highlight=False, soft_wrap=True)
    tracked = summary.tracking.get("url") or summary.tracking.get("files")
    for what, path in (("checkpoint", summary.checkpoint), ("encoder   ", summary.encoder), ("tracked in", tracked)):
        if path:
            console.print(f"{what}  {path}", markup=False, highlight=False, soft_wrap=True)
    if "encoder" in summary.tracking:
        text = f'load it anywhere: prism_ssl.load_encoder("{summary.tracking["encoder"]}")'
        console.print(text, markup=False, highlight=False, soft_wrap=True)
    if "problem" in summary.tracking:
        console.print(f"[yellow]tracking[/]: {escape(summary.tracking['problem'])}", soft_wrap=True)


def _loss_table(summary: RunSummary) -> Table:
    table = Table(title="losses since the last log step (below chance: something is learned)", title_justify="left")
    for column in ("objective", "loss", "chance", "weight", "sign skill (0 chance, 1 perfect)"):
        table.add_column(column, justify="left" if column.startswith(("objective", "sign")) else "right")
    skills = summary.losses.get("skill", {})
    for name, values in summary.losses.items():
        if name in ("skill", "total"):
            continue
        axes = "  ".join(f"{axis} {skills[axis]:+.2f}" for axis in _AXES_OF.get(name, ()) if _known(skills.get(axis)))
        numbers = (_sci(values.get("loss")), _sci(values.get("chance")), f"{values.get('weight', 0):.2g}")
        table.add_row(name, *numbers, axes)
    return table


_AXES_OF = {
    "distance": ("dx", "dy", "dz"),
    "rotation": ("rx", "ry", "rz"),
    "window_center": ("wc",),
    "window_width": ("ww",),
}


def _facts_table(summary: RunSummary) -> Table:
    totals, data = summary.totals, summary.data
    table = Table(title="this run", title_justify="left", show_header=False)
    table.add_column()
    table.add_column()

    def number(name: str) -> float:
        return totals.get(name) or 0.0

    table.add_row("time", format_duration(number("wall_s")) + _resumed(summary))
    table.add_row("throughput", f"{number('throughput_effective_patches_per_sec'):,.0f} patches/s (wall clock)")
    table.add_row(
        "step time",
        f"p50 {number('total_step_time_ms_p50'):.0f}, p95 {number('total_step_time_ms_p95'):.0f}, "
        f"p99 {number('total_step_time_ms_p99'):.0f} ms; first step, with opening scans and compiling: "
        f"{number('first_step_ms') / 1e3:.1f} s; later steps of 2 s or more: {number('stall_steps_ge_2000ms'):.0f}",
    )
    table.add_row("waiting for data", _waiting(totals))
    if data:
        rejected = {key.removeprefix("rejected/"): n for key, n in data.items() if key.startswith("rejected/")}
        reasons = ", ".join(f"{reason} {n:.0f}" for reason, n in rejected.items())
        table.add_row(
            "scans",
            ("generated phantoms: " if data.get("generated_phantoms") else "")
            + f"{data['scans_training']:.0f} train, {data['scans_held_out']:.0f} held out, "
            f"{data['scans_rejected']:.0f} rejected" + (f" ({reasons})" if reasons else ""),
        )
    table.add_row(
        "replacements",
        f"{number('replacement_completed_count'):.0f} completed, {number('replacement_failed_count'):.0f} failed; "
        f"{number('coverage'):.0%} of the training scans seen; actor restarts: {number('actor_restarts'):.0f}",
    )
    if number("worker_restarts"):
        table.add_row("worker restarts", f"{number('worker_restarts'):.0f} after the machine killed a training worker")
    if summary.restarts:
        table.add_row("run restarts", f"{summary.restarts} after a broken scan, each without that scan")
    skipped = number("nonfinite_skipped_steps")
    if skipped:
        table.add_row("skipped steps", f"{skipped:.0f} because the loss was not finite")
    return table


def _waiting(totals: dict[str, float]) -> str:
    waited = totals.get("data_wait_ms_total") or 0.0
    causes = ", ".join(
        f"{name} {(totals.get(f'data_wait_{name}_ms_total') or 0.0) / max(waited, 1e-9):.0%}"
        for name in ("opening", "sampling", "transport")
    )
    return f"{totals.get('data_wait_share', 0.0):.0%} of the time, of which {causes}"


def _resumed(summary: RunSummary) -> str:
    back_s = summary.totals.get("resume_s") or 0.0
    return f" over all attempts, {format_duration(back_s)} of it spent resuming" if back_s else ""


def _rate(row: dict[str, Any]) -> str:
    return f"{row['patches_per_sec_interval']:,.0f} patches/s  wait {row['data_wait_share']:.0%}"


def _known(value: float | None) -> bool:
    return value is not None and value == value


def _sci(value: float | None) -> str:
    return f"{value:.2e}" if value is not None and _known(value) else "-"
