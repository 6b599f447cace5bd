"""``make demo`` as a newcomer gives it: no path, no setting, in a folder of their own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

pytestmark = pytest.mark.slow


def test_the_demo_trains_ranks_and_says_where_its_encoder_is(tmp_path: Path) -> None:
    fewer = ("--only", "b32-p16-w0.2-*", "--max-steps", "4", "--run.tmp-root", "tmp")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    result = subprocess.run(
        [sys.executable, str(REPOSITORY / "tune" / "demo.py"), *fewer],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=400,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    assert len(re.findall(r"trial \d of 2: \S+ ok at step 4 ", result.stdout)) == 2
    for told in ("the ranking +", "the best encoder +"):
        shown = re.search(rf"{told}([^\s,]+)", result.stdout)
        assert shown is not None, result.stdout
        assert (tmp_path / shown[1]).is_file()
