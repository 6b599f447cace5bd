"""What is kept of an error that Ray Tune wrote down, and which ends of trials end a sweep for now."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from prism_ssl.config.defaults import apply_overrides, core24_smoke
from prism_ssl.contracts import RunSummary
from prism_ssl.records.run_files import write_summary
from tune.sweep.console import TrialView, error_line
from tune.sweep.folder import Sweep

RAISED = """Failure # 1 (occurred at 2026-01-01_00-00-00)
ray::ImplicitFunc.train() (pid=1)
  File "trial.py", line 1, in run_trial
    raise TrialFailed(point.name, cause)
prism_ssl.errors.TrialFailed: trial b32 failed: PoolStalled: nothing came
"""
DIED = """Failure # 1 (occurred at 2026-01-01_00-00-00)
The actor died unexpectedly before finishing this task.
\tclass_name: ImplicitFunc
The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR
"""


@pytest.mark.parametrize(
    ("told", "line"),
    [
        (RAISED, "prism_ssl.errors.TrialFailed: trial b32 failed: PoolStalled: nothing came"),
        (DIED, "The actor died unexpectedly before finishing this task."),
        ("", "the trial died without an error message"),
    ],
)
def test_the_line_that_names_the_error_is_kept(told: str, line: str) -> None:
    assert error_line(told) == line


AWAY = "ArchiveUnreachable: the archive was away for 120 s"


@pytest.mark.parametrize(
    ("causes", "is_over"),
    [
        ([AWAY], False),
        ([AWAY, "TrackingError: W&B cannot be used"], True),
        (["RuntimeError: CUDA error: unspecified launch failure"] * 2, True),
        ([None, "GpuUnusable: ...", "MachineTrouble: too many open files"], True),
        ([AWAY, None, AWAY], False),
        ([AWAY, "NonFiniteLoss: the loss was not finite"], False),
        (
            ["HostOutOfMemory: no memory", "GpuOutOfMemory: the GPU's memory was full at step 1: CUDA out of memory"],
            False,
        ),
    ],
)
def test_two_trials_in_a_row_that_fail_by_no_fault_of_their_own_end_the_sweep(
    tmp_path: Path, causes: list[str | None], is_over: bool
) -> None:
    sweep = Sweep(apply_overrides(core24_smoke(), {"run.root": str(tmp_path)}), "smoke", "half")
    view = TrialView(sweep, Console(file=io.StringIO()), len(causes))
    for point, cause in zip(sweep.points, causes, strict=False):
        trial: Any = SimpleNamespace(config=point.levels, error_file=None)
        view.log_trial_start(trial)
        folder = str(sweep.run_dir(point))
        write_summary(RunSummary(point.name, "failed" if cause else "ok", cause, 12, 12, None, folder))
        view.log_trial_end(trial, failed=cause is not None)
    assert view.outage() == (causes[-1] if is_over else None)
    assert len(sweep.pending()) == 24 - causes.count(None)
