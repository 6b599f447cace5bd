"""Every benchmark runs to its end; how fast it is nobody asks here."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY

pytestmark = pytest.mark.slow

BENCHMARKS = REPOSITORY / "tests" / "benchmarks"


def test_all_benchmarks_run_and_report() -> None:
    command = [sys.executable, str(BENCHMARKS / "run_all.py"), "--quick"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)
    assert result.returncode == 0, result.stderr
    reported = re.findall(r"^## (bench_\w+)$", result.stdout, re.MULTILINE)
    assert reported == sorted(script.stem for script in BENCHMARKS.glob("bench_*.py"))
