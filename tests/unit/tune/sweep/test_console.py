"""What is kept of an error that Ray Tune wrote down."""

from __future__ import annotations

import pytest

from tune.sweep.console import error_line

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
