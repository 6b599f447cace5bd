"""Table of the smoke test of a cluster: ``python tune/smoke_report.py RUN_FOLDER [RUN_FOLDER ...]``."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from prism_ssl.contracts import RunSummary
from prism_ssl.errors import PrismError
from prism_ssl.records.run_files import read_history, read_summary, settings_of_run
from prism_ssl.records.wandb_api import open_api, service_errors
from prism_ssl.train.tracking.identity import read_tracked_as


@dataclass(frozen=True)
class Check:
    """One row of the table. ``passed`` is None for a check that is not possible here."""

    run: str
    what: str
    passed: bool | None
    found: str


def checks_of(run_dir: Path) -> Iterator[Check]:
    """The checks of one run, in its folder and in W&B."""
    summary = read_summary(run_dir)
    if summary is None:
        yield Check(run_dir.name, "ran", False, "there is no summary.json")
        return
    ended = summary.status == "ok" and summary.steps_done == summary.max_steps
    found = f"{summary.status} at step {summary.steps_done} of {summary.max_steps}"
    yield Check(run_dir.name, "all steps, no failure", ended, f"{found}: {summary.cause}" if summary.cause else found)
    rows = [row for row in read_history(run_dir) if "loss/total" in row]
    finite = bool(rows) and all(row["loss/total"] is not None and math.isfinite(row["loss/total"]) for row in rows)
    yield Check(run_dir.name, "losses finite and logged", finite, f"{len(rows)} rows")
    rate = summary.totals.get("throughput_effective_patches_per_sec") or 0.0
    yield Check(run_dir.name, "throughput measured", rate > 0, f"{rate:,.0f} patches/s")
    kept = [name for name in ("last.ckpt", "encoder.safetensors") if (run_dir / name).is_file()]
    yield Check(run_dir.name, "checkpoint and encoder kept", len(kept) == 2, ", ".join(kept) or "neither")
    yield from _tracked_checks(run_dir, summary, {row["global_step"] for row in rows})


def _tracked_checks(run_dir: Path, summary: RunSummary, logged: set[int]) -> Iterator[Check]:
    mode = summary.tracking.get("mode", "unknown")
    tracked = read_tracked_as(run_dir)
    if mode != "online" or tracked is None:
        yield Check(run_dir.name, "W&B metrics and artifact", None, f"tracking was {mode}")
        return
    try:
        with service_errors():
            api = open_api(settings_of_run(run_dir))
            run = api.run(tracked.path)
            there = {row["global_step"] for row in run.scan_history() if row.get("loss/total") is not None}
            yield Check(run_dir.name, "W&B run finished", run.state == "finished", run.state)
            yield Check(run_dir.name, "W&B has every row", there >= logged, f"{len(there & logged)} of {len(logged)}")
            artifact = f"{tracked.artifact_path}:latest"
            kept = api.artifact_exists(artifact)
            yield Check(run_dir.name, "W&B has a checkpoint", kept, artifact if kept else f"no {artifact}")
    except PrismError as error:
        yield Check(run_dir.name, "W&B metrics and artifact", False, str(error))


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; 0 when no check failed."""
    folders = [Path(name) for name in (sys.argv[1:] if arguments is None else arguments)]
    table = Table("run", "check", "result", "found", title="cluster smoke test", title_justify="left")
    checks = [check for folder in folders for check in checks_of(folder)]
    results = {True: "[green]pass[/]", False: "[red]FAIL[/]", None: "not checked"}
    for check in checks:
        table.add_row(escape(check.run), check.what, results[check.passed], escape(check.found))
    Console().print(table)
    failed = sum(check.passed is False for check in checks)
    Console().print(f"{failed} of {len(checks)} checks failed" if failed else "passed", highlight=False)
    return 1 if failed or not checks else 0


if __name__ == "__main__":
    sys.exit(main())
