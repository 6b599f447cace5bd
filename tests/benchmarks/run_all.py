"""Run every benchmark of this folder and write RESULTS.md.

    python tests/benchmarks/run_all.py           (or: make bench)

Each bench_*.py runs in a process of its own, one after another, with --json. A benchmark that fails is named in the
results with its last line; the others still run, and the exit status is 1. For a target that was missed, the text of
notes/<benchmark>.md (what was tried) is copied in, where there is one.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness import REPOSITORY, RESULTS

FOLDER = Path(__file__).parent
NOTES = FOLDER / "notes"

Report = dict[str, Any]


def run(script: Path, quick: bool) -> Report:
    """A benchmark's report, or ``{"title", "failed"}`` with the last line it wrote before it failed."""
    command = [sys.executable, str(script), "--json", *(["--quick"] if quick else [])]
    ended = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    if ended.returncode == 0:
        made: Report = json.loads(ended.stdout)
        return made
    last = (ended.stderr.strip() or "no message").splitlines()[-1]
    return {"title": script.stem, "failed": f"exit status {ended.returncode}: {last}"}


def as_markdown(reports: Sequence[Report], command: str) -> str:
    """All reports as one page: targets first, then each benchmark, then what was tried where a target was missed."""
    done = [made for made in reports if "failed" not in made]
    lines = ["# Benchmark results", "", f"Written by `{command}`; times are wall-clock milliseconds.", ""]
    lines += _circumstances(done)
    lines += ["## Targets", "", "| | what | against | target | reached |", "|---|---|---|---|---|"]
    lines += [_target(row) for made in done for row in made["rows"]]
    lines += [f"\n`{made['title']}` failed: {made['failed']}" for made in reports if "failed" in made]
    for made in done:
        lines += _section(made)
    missed = [made["title"] for made in done if not all(row["met"] for row in made["rows"])]
    for title in missed:
        lines += _tried(title)
    return "\n".join(lines) + "\n"


def _circumstances(reports: Sequence[Report]) -> list[str]:
    """What all reports share; the load average of the minute before is each one's own."""
    if not reports:
        return []
    shared = {name: value for name, value in reports[0]["circumstances"].items() if name != "load_average"}
    loads = ", ".join(f"{made['title']} {made['circumstances'].get('load_average')}" for made in reports)
    lines = [f"- {name}: {value}" for name, value in shared.items()]
    return [*lines, f"- load average of the minute before each: {loads}", ""]


def _target(row: Mapping[str, Any]) -> str:
    verdict = "met" if row["met"] else "**missed**"
    return f"| {verdict} | {row['what']} | {row['against']} | {row['target']} | {row['reached']:.3g} |"


def _section(made: Report) -> list[str]:
    lines = ["", f"## {made['title']}", ""]
    lines += [f"- {name}: {value}" for name, value in made["facts"].items() if value is not None]
    if made["timings"]:
        lines += ["", "| | median | p10 | p90 | min | repeats |", "|---|---:|---:|---:|---:|---:|"]
    for name, timing in made["timings"].items():
        numbers = " | ".join(f"{timing[key]:.3f}" for key in ("median_ms", "p10_ms", "p90_ms", "min_ms"))
        lines.append(f"| {name} | {numbers} | {timing['repeats']} |")
    return lines


def _tried(title: str) -> list[str]:
    """The section of a benchmark that missed a target; its heading is ours, the text that of its note."""
    note = NOTES / f"{title.removeprefix('bench_')}.md"
    text = note.read_text().strip() if note.is_file() else f"No note ({note.relative_to(REPOSITORY)})."
    return ["", f"## Missed: {title}", "", text]


def main() -> int:
    """Runs, writes, says which targets were missed."""
    options = argparse.ArgumentParser(description="Run all benchmarks and write RESULTS.md.")
    options.add_argument("--quick", action="store_true", help="fewer repeats, and print instead of writing RESULTS.md")
    options.add_argument("--only", nargs="+", default=[], metavar="NAME", help="these alone (open, view, ...)")
    arguments = options.parse_args()
    reports = []
    for script in sorted(FOLDER.glob("bench_*.py")):
        if arguments.only and script.stem.removeprefix("bench_") not in arguments.only:
            continue
        print(script.stem, file=sys.stderr, flush=True)
        reports.append(run(script, arguments.quick))
        if "failed" in reports[-1]:
            print(f"{script.stem} failed: {reports[-1]['failed']}", file=sys.stderr, flush=True)
    page = as_markdown(reports, "python " + " ".join(["tests/benchmarks/run_all.py", *sys.argv[1:]]))
    if arguments.quick or arguments.only:
        print(page)
    else:
        (REPOSITORY / RESULTS).write_text(page)
        print(RESULTS)
    return int(any("failed" in made for made in reports))


if __name__ == "__main__":
    raise SystemExit(main())
