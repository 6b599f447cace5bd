"""Every benchmark runs to its end; how fast it is nobody asks here."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence

import pytest

from tests.conftest import REPOSITORY

pytestmark = pytest.mark.slow

BENCHMARKS = REPOSITORY / "tests" / "benchmarks"


ON_A_CLUSTER = ("folder", "loader", "memory", "step", "transport")
"""Benchmarks that start Ray and real pools."""
ALL = sorted(script.stem.removeprefix("bench_") for script in BENCHMARKS.glob("bench_*.py"))


def _report(names: Sequence[str]) -> None:
    command = [sys.executable, str(BENCHMARKS / "run_all.py"), "--quick", "--only", *names]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)
    assert result.returncode == 0, result.stderr
    assert re.findall(r"^## bench_(\w+)$", result.stdout, re.MULTILINE) == list(names)


def test_the_benchmarks_of_one_process_run_and_report() -> None:
    _report([name for name in ALL if name not in ON_A_CLUSTER])


@pytest.mark.soak
def test_the_benchmarks_on_a_cluster_run_and_report() -> None:
    assert set(ON_A_CLUSTER) < set(ALL)
    _report(ON_A_CLUSTER)
