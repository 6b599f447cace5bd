"""Shared parts of the benchmarks: circumstances, interleaved timing, targets, printing.

    contestants = {"ours": run_ours, "theirs": run_theirs}       # each call is one repeat
    timings = measure(contestants, repeats=20, warmup=2)         # {"ours": Timing, "theirs": Timing}
    rows = [at_least("one view", "theirs", 9, timings["theirs"].median_ms / timings["ours"].median_ms)]
    return report("bench_view", where, timings, rows, as_json=arguments.json)

Times are wall-clock. Contestants take turns within one run, so that a busy machine slows all of them alike and their
ratios stay fair. A benchmark's ``main`` returns its report and ``--json`` prints that and nothing else on stdout.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[2]
RESULTS = "tests/benchmarks/RESULTS.md"
"""Written from the benchmarks' reports; its own change does not make a commit dirty."""


@dataclass(frozen=True)
class Timing:
    """Wall-clock milliseconds of one contestant over ``repeats`` calls (percentiles interpolated)."""

    median_ms: float
    p10_ms: float
    p90_ms: float
    min_ms: float
    repeats: int

    @classmethod
    def of(cls, samples_ms: Sequence[float]) -> Timing:
        """The timing of calls that were measured elsewhere."""
        return cls(
            median_ms=statistics.median(samples_ms),
            p10_ms=percentile(samples_ms, 10),
            p90_ms=percentile(samples_ms, 90),
            min_ms=min(samples_ms),
            repeats=len(samples_ms),
        )


@dataclass(frozen=True)
class Row:
    """One target: ``what`` was compared with ``against``, the ``target`` in words, the number ``reached``."""

    what: str
    against: str
    target: str
    reached: float
    met: bool


def at_most(what: str, against: str, limit: float, reached: float, unit: str = "x its time") -> Row:
    """A target that is met by a number of ``limit`` or less."""
    return Row(what, against, f"<= {limit:g} {unit}".strip(), reached, reached <= limit)


def at_least(what: str, against: str, limit: float, reached: float, unit: str = "x faster") -> Row:
    """A target that is met by a number of ``limit`` or more."""
    return Row(what, against, f">= {limit:g} {unit}".strip(), reached, reached >= limit)


def percentile(samples: Sequence[float], percent: float) -> float:
    """The value below which ``percent`` of the samples lie, interpolated between neighbours."""
    ordered = sorted(samples)
    place = percent / 100 * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def measure(contestants: Mapping[str, Callable[[], object]], repeats: int, warmup: int) -> dict[str, Timing]:
    """Time each contestant ``repeats`` times after ``warmup`` uncounted calls, in turns.

    Every round calls each contestant once, in an order of its own (seeded), so that none always runs in the caches
    that one and the same neighbour left behind. What a call returns is freed after the clock has stopped.
    """
    order = random.Random(0)
    names = list(contestants)
    samples_ms: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(warmup + repeats):
        order.shuffle(names)
        for name in names:
            call = contestants[name]
            start = time.perf_counter()
            result = call()
            wall_ms = (time.perf_counter() - start) * 1e3
            del result
            if turn >= warmup:
                samples_ms[name].append(wall_ms)
    return {name: Timing.of(samples) for name, samples in samples_ms.items()}


def circumstances() -> dict[str, Any]:
    """Where and on what the numbers were taken; the load average is that of the minute before."""
    return {
        "host": platform.node(),
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "load_average": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "commit": _git("rev-parse", "--short=12", "HEAD") or None,
        "dirty": bool(_git("status", "--porcelain", "--", ".", f":!{RESULTS}")),
    }


def parser(description: str | None) -> argparse.ArgumentParser:
    """The options that every benchmark has; ``description`` is the script's docstring, its first line is shown."""
    made = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    made.add_argument("--json", action="store_true", help="print JSON and nothing else on stdout")
    made.add_argument("--quick", action="store_true", help="fewer repeats: does it run, not how fast")
    return made


def report(
    title: str,
    circumstances: Mapping[str, Any],
    timings: Mapping[str, Timing],
    rows: Sequence[Row],
    as_json: bool,
    facts: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Print a benchmark's numbers as a table or as JSON, and return what the JSON holds.

    ``facts`` are what a reader needs besides times and targets: sizes, settings, counts, what was skipped and why.
    """
    made = {
        "title": title,
        "circumstances": dict(circumstances),
        "facts": dict(facts or {}),
        "timings": {name: asdict(timing) for name, timing in timings.items()},
        "rows": [asdict(row) for row in rows],
    }
    print(json.dumps(made, indent=2) if as_json else _as_text(made))
    return made


def _as_text(made: Mapping[str, Any]) -> str:
    lines = [made["title"], " ".join(f"{name}={value}" for name, value in made["circumstances"].items())]
    lines += [f"  {name}: {value}" for name, value in made["facts"].items()]
    if made["timings"]:
        width = max(len(name) for name in made["timings"])
        lines += ["", f"{'':{width}}  {'median':>10}  {'p10':>10}  {'p90':>10}  {'min':>10}  ms"]
    for name, timing in made["timings"].items():
        numbers = "  ".join(f"{timing[key]:10.3f}" for key in ("median_ms", "p10_ms", "p90_ms", "min_ms"))
        lines.append(f"{name:{width}}  {numbers}  ({timing['repeats']} repeats)")
    lines.append("")
    for row in made["rows"]:
        verdict = "met   " if row["met"] else "MISSED"
        lines.append(f"{verdict} {row['what']}, against {row['against']}: {row['reached']:.4g} ({row['target']})")
    return "\n".join(lines)


def _cpu_model() -> str:
    """Model name and the families of vector instructions that matter here, from /proc/cpuinfo where there is one."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    known = dict(part.split(":", 1) for part in (line.replace("\t", "") for line in lines) if ":" in part)
    flags = known.get("flags", "").split()
    vectors = next((flag for flag in ("avx512f", "avx2", "avx") if flag in flags), "no AVX")
    family = f"family {known.get('cpu family', '?').strip()} model {known.get('model', '?').strip()}"
    return f"{known.get('model name', platform.machine()).strip()} ({family}, {vectors})"


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(REPOSITORY), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
