"""Seconds and memory of the notebook on a large project: 500 generated runs of 10,000 rows.

    python tests/benchmarks/bench_explore.py --json

Every run has settings and a summary of its own; histories are hard links to a few files (500 of their own would fill a
disk), so each is parsed and kept like any other.
"""

from __future__ import annotations

import os
import resource
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import altair as alt
from harness import Timing, at_most, circumstances, parser, report

sys.path.insert(0, str(Path(__file__).parents[2]))

from prism_ssl.explore import (
    alarm_view,
    curves,
    ranking_view,
    representation_view,
    run_page,
    session,
    throughput_view,
)
from prism_ssl.explore.runs import LOCAL, fetch_history, fetch_runs
from prism_ssl.utils.time import Stopwatch
from tests.support.sweep_records import write_run
from tune.core24 import design_points

_DISTINCT = 4
_STEP = 10


class Asked:
    """Questions, how long each took, and the memory at its peak so far; all caches are empty at the start."""

    def __init__(self) -> None:
        self.timings: dict[str, Timing] = {}
        self.peak_bytes = 0

    def __call__(self, what: str, ask: Callable[[], Any]) -> Any:
        """Ask, once: what a person waits for is the first time."""
        watch = Stopwatch()
        answer = ask()
        self.timings[what] = Timing.of([watch.ms()])
        self.peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return answer


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Generates, asks, prints."""
    options = parser(__doc__)
    options.add_argument("--runs", type=int, help="runs of the project (default 500; 50 with --quick)")
    options.add_argument("--rows", type=int, help="rows of each (default 10,000; 1,000 with --quick)")
    chosen = options.parse_args(arguments)
    runs, rows = chosen.runs or (50 if chosen.quick else 500), chosen.rows or (1_000 if chosen.quick else 10_000)
    where, asked = circumstances(), Asked()
    with tempfile.TemporaryDirectory(dir="/tmp") as folder, alt.data_transformers.enable("default", max_rows=None):
        os.environ["LOGNAME"] = f"{Path(folder).name}/user"  # puts the temporary root, and so the cache, below it
        root = Path(folder) / "runs"
        size = _generate(root, runs, rows)
        scored = asked("runs and their scores", lambda: session.load_scored(LOCAL, str(root)))
        asked("filter to one objective", lambda: fetch_runs(LOCAL, str(root), {"model.objective": "regression"}))
        asked("ranking: tables, chart, Pareto, effects", lambda: _ranking(scored))
        asked("throughput and failures", lambda: _throughput(scored))
        drawn = session.runs_to_draw(scored, scored["run"].to_list())
        history = asked(f"curves of {len(drawn)} runs, first time", lambda: session.curves_of(scored, drawn))
        asked(f"curves of {len(drawn)} runs, again", lambda: session.curves_of(scored, drawn))
        asked("their charts", lambda: _charts(history, drawn))
        asked("representation", lambda: _representation(scored, drawn))
        asked("a run's page", lambda: _page(scored, drawn[0]))
        page_s, page_bytes = sum(timing.median_ms for timing in asked.timings.values()) / 1e3, asked.peak_bytes
        ids, keys = scored["run_id"].to_list(), ["loss/total", "probe/proxy_quality"]
        asked(f"two scalars of all {len(ids)} histories, first time", lambda: fetch_history(ids, keys))
        asked("the same again", lambda: fetch_history(ids, keys))
    what = f"notebook, {runs} runs of {rows:,} rows"
    targets = [
        at_most(f"{what}: all that its page asks", "-", 20, page_s, "s"),
        at_most(f"{what}: peak memory of it", "-", 2, page_bytes / 1e9, "GB"),
    ]
    facts = {
        "a history": f"{size / 2**20:.0f} MiB",
        "peak memory after all histories": f"{asked.peak_bytes / 1e9:.2f} GB",
    }
    return report("bench_explore", where, asked.timings, targets, chosen.json, facts)


def _generate(root: Path, runs: int, rows: int) -> int:
    points = design_points("half")
    steps = range(_STEP, rows * _STEP + 1, _STEP)
    originals: list[Path] = []
    for number in range(runs):
        point = points[number % len(points)]
        folder = write_run(root, point, steps if number < _DISTINCT else steps[-1:])
        renamed = folder.rename(root / f"{point.name}-{number}")
        if number < _DISTINCT:
            originals.append(renamed / "history.jsonl")
        else:
            (renamed / "history.jsonl").unlink()
            os.link(originals[number % _DISTINCT], renamed / "history.jsonl")
    return originals[0].stat().st_size


def _ranking(scored: Any) -> None:
    ranking_view.ranking_table(scored)
    ranking_view.configurations_table(scored)
    for chart in (ranking_view.quality_picture, ranking_view.pareto_chart, ranking_view.effects_picture):
        chart(scored).to_json()


def _throughput(scored: Any) -> None:
    throughput_view.throughput_table(scored)
    throughput_view.failure_table(scored)
    for chart in (throughput_view.tail_chart, throughput_view.time_chart):
        chart(scored).to_json()


def _charts(history: Any, drawn: list[str]) -> None:
    curves.loss_curves(history, drawn, "normalised").to_json()
    curves.diagnostic_curves(history, drawn, next(iter(curves.DIAGNOSTICS))).to_json()
    curves.rate_curves(history, drawn).to_json()
    alarm_view.alarm_chart(alarm_view.alarm_spans(history), drawn).to_json()


def _representation(scored: Any, drawn: list[str]) -> None:
    representation_view.representation_picture(scored, drawn).to_json()
    representation_view.representation_table(scored, drawn)


def _page(scored: Any, run: str) -> None:
    history, damage = session.curves_of(scored, [run]), session.damage_in_words(scored, [run])
    run_page.in_words(run_page.findings(scored, run, history, damage.get(run)))
    run_page.measures_table(scored, run)
    run_page.differing_settings(scored, run)
    curves.loss_curves(history, [run], curves.RELATIVE).to_json()


if __name__ == "__main__":
    main()
