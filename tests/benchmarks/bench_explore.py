"""Is the notebook usable on a large project? 500 generated runs of 10,000 rows: seconds and memory of what it asks.

    python tests/benchmarks/bench_explore.py [--runs 500] [--rows 10000]

Every run has settings and a summary of its own; histories are hard links to a few files (500 of their own would fill a
disk), so each is parsed and kept like any other.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from prism_ssl.explore import alarm_view, curves, ranking_view, session, throughput_view
from prism_ssl.explore.runs import LOCAL, fetch_history, fetch_runs
from tests.sweep_records import write_run
from tune.core24 import design_points

_DISTINCT = 4
_STEP = 10


def main() -> None:
    """Print a row for each question."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--rows", type=int, default=10_000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        root = Path(folder) / "runs"
        size = _generate(root, given.runs, given.rows)
        print(f"{given.runs} runs of {given.rows} rows, {size / 2**20:.0f} MiB a history")
        scored = _timed("fetch_runs and score", lambda: session.load_scored(LOCAL, str(root)))
        _timed("filter to one objective", lambda: fetch_runs(LOCAL, str(root), {"model.objective": "regression"}))
        _timed("ranking: table, chart, Pareto, effects", lambda: _ranking(scored))
        _timed("throughput and failures", lambda: _throughput(scored))
        drawn = session.runs_to_draw(scored, scored["run"].to_list())
        history = _timed(f"curves of {len(drawn)} runs, first time", lambda: session.curves_of(scored, drawn))
        _timed(f"curves of {len(drawn)} runs, again", lambda: session.curves_of(scored, drawn))
        _timed("their charts", lambda: _charts(history, drawn))
        ids, keys = scored["run_id"].to_list(), ["loss/total", "probe/proxy_quality"]
        _timed(f"fetch_history of all {len(ids)} runs, 2 keys, first time", lambda: fetch_history(ids, keys))
        _timed("the same again", lambda: fetch_history(ids, keys))


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


def _timed(what: str, ask: Callable[[], Any]) -> Any:
    begin = time.perf_counter()
    answer = ask()
    seconds = time.perf_counter() - begin
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{what:60} {seconds:7.2f} s   peak memory so far {peak_mib:5.0f} MiB", flush=True)
    return answer


def _ranking(scored: Any) -> None:
    ranking_view.ranking_table(scored)
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


if __name__ == "__main__":
    main()
