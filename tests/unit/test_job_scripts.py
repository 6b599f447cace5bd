"""What the job scripts' shell functions do, without a Slurm."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

PROFILE = """
[ "$BASHRC_READ" = yes ] && return   # not set
false
export SITE_MODULES=loaded
set -f +e
grep -q nothing /dev/null
"""


def setup(profile: Path, after: str) -> subprocess.CompletedProcess[str]:
    """Source a profile as a job does, and run ``after``."""
    script = f"set -euo pipefail; PRISM_SETUP={profile}; source slurm/env.sh; prism_setup; {after}"
    return subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False, cwd=REPOSITORY)


def test_an_ordinary_profile_is_sourced_and_the_job_goes_on(tmp_path: Path) -> None:
    (tmp_path / "profile").write_text(PROFILE)
    done = setup(tmp_path / "profile", 'echo "$SITE_MODULES"')
    assert (done.returncode, done.stdout.strip()) == (0, "loaded"), done.stderr
    assert f"the last command of {tmp_path}/profile failed with 1; the job goes on" in done.stderr


@pytest.mark.parametrize("mistake", ["false", 'echo "$NOT_SET_BY_ANYBODY"', "false | true"])
def test_after_it_the_job_is_as_strict_as_before(tmp_path: Path, mistake: str) -> None:
    (tmp_path / "profile").write_text(PROFILE)
    done = setup(tmp_path / "profile", f"{mistake}; echo unreachable")
    assert done.returncode == 1
    assert "unreachable" not in done.stdout


def test_a_setup_script_that_is_not_there_is_named(tmp_path: Path) -> None:
    done = setup(tmp_path / "gone", "true")
    assert done.returncode == 1
    assert f"prism: cannot start: PRISM_SETUP is {tmp_path}/gone, which " in done.stderr
