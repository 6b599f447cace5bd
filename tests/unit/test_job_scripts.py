"""What the job scripts' shell functions do, without a Slurm."""

from __future__ import annotations

import os
import subprocess
import uuid
from collections.abc import Iterator
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


@pytest.mark.parametrize(
    ("code", "stop_file", "requeued"), [(75, False, True), (75, True, False), (1, False, False), (0, False, False)]
)
def test_a_sweep_that_an_outage_has_stopped_goes_back_into_the_queue(
    tmp_path: Path, code: int, stop_file: bool, requeued: bool
) -> None:
    for name, text in {"scontrol": 'echo "$*" >>"$TOLD"', "sleep": "exit 0"}.items():
        (tmp_path / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    root, told = tmp_path / "root", tmp_path / "told"
    root.mkdir()
    if stop_file:
        (root / "stop").touch()
    script = f"""set -euo pipefail; source slurm/env.sh; PRISM_START_LOCK=$PRISM_ROOT/.start PRISM_MAX_RESTARTS=20
        PRISM_CHILD='' PRISM_RAY='' PRISM_NODES='' PRISM_ASKED='' PRISM_CLEAN='' PRISM_STOP_FILE=$PRISM_ROOT/stop
        prism_sweep bash -c 'exit {code}'"""
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "TOLD": str(told), "PRISM_ROOT": str(root)}
    environment |= {"SLURM_JOB_ID": "7", "PRISM_PYTHON": "", "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, check=False, cwd=REPOSITORY, env=environment, timeout=60
    )
    assert (done.returncode, told.exists() and told.read_text()) == (code, "requeue 7\n" if requeued else False)


# ---------------------------------------------------------------------- several nodes
TOLD = 'printf "%s\\n" "$0 $*" >>"$TOLD"'
FAKES = {
    "scontrol": "echo first; echo second; echo third",
    "srun": f"""{TOLD}
        export PRISM_ROOT=$PRISM_ROOT-other
        RAY_AUTH_TOKEN_PATH=$PRISM_ROOT/token TMPDIR=$PRISM_ROOT/tmp exec "${{@: -2}}" """,
    "python": f"""case "$*" in
        *cleanup_after_kill*) exit ;;
        *" start --head"*) {TOLD}; mkdir -p "$PRISM_ROOT/ray/r"; echo up >"$PRISM_ROOT/ray/r/ray_current_cluster" ;;
        *" start "*) {TOLD}; cat "$RAY_AUTH_TOKEN_PATH" >"$TOLD.token"; stat -c %a "$PRISM_ROOT" >"$TOLD.joined" ;;
        *wait_for_nodes*) {TOLD}; for _ in $(seq 300); do [ -s "$TOLD.joined" ] && exit 0; sleep 0.1; done; exit 1 ;;
        *) echo 1 2 3 4 5; exit ;;
    esac
    exec sleep 60""",
}
"""Commands that only note how they were called; the other node's /tmp is a folder beside that of the first."""


@pytest.fixture
def two_more_nodes(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of a job on three nodes; all of its processes end with the test."""
    for name, text in FAKES.items():
        (tmp_path / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    root = Path("/tmp") / f"prism-{uuid.uuid4().hex[:8]}"
    yield os.environ | {
        "PATH": f"{tmp_path}:{os.environ['PATH']}", "PRISM_PYTHON": str(tmp_path / "python"), "PRISM_ROOT": str(root),
        "PRISM_REPO": str(REPOSITORY), "TOLD": str(tmp_path / "told"), "TMPDIR": str(root / "tmp"), "PRISM_GPUS": "2",
        "USER": "me", "SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "3", "SLURM_JOB_NODELIST": "n[1-3]",
        "SLURMD_NODENAME": "first", "SLURM_CPUS_PER_TASK": "6", "PRISM_NODE_ADDRESS": "10.0.0.1",
        "PRISM_OBJECT_STORE_MIB": "1",
    }  # fmt: skip
    for pid in Path("/proc").glob("[0-9]*"):
        try:
            if f"PRISM_ROOT={root}".encode() in (pid / "environ").read_bytes():
                os.kill(int(pid.name), 9)
        except OSError:
            continue


def _bash(script: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", script],
        capture_output=True,
        text=True,
        check=False,
        cwd=REPOSITORY,
        env=environment,
        timeout=120,
    )


def test_other_nodes_join_with_a_token_that_nobody_sees_and_leave_nothing(two_more_nodes: dict[str, str]) -> None:
    root, told = Path(two_more_nodes["PRISM_ROOT"]), Path(two_more_nodes["TOLD"])
    script = """set -euo pipefail; source slurm/env.sh; mkdir -m 700 "$PRISM_ROOT"; exec 9>"$PRISM_ROOT/.lock"
        PRISM_CHILD='' PRISM_NODES='' PRISM_CLEAN='' PRISM_GRACE_S=1 PRISM_START_LOCK=$PRISM_ROOT/.start
        trap prism_cleanup EXIT
        prism_ray_start "$(prism_own_address)"; prism_ray_join; cat "$RAY_AUTH_TOKEN_PATH" >"$TOLD.wanted" """
    done = _bash(script, two_more_nodes)
    assert done.returncode == 0, done.stderr
    lines = told.read_text().splitlines()
    head, srun, wait, join = (
        [line for line in lines if words in line]
        for words in (" start --head ", "srun ", "wait_for_nodes ", " start --address ")
    )
    token = told.with_suffix(".wanted").read_text()
    assert len(token) == 64
    assert told.with_suffix(".token").read_text() == token
    assert token not in told.read_text() + done.stderr
    assert "--node-ip-address 10.0.0.1 --port 1 " in head[0]
    assert (
        "--nodes=2 --ntasks=2 --ntasks-per-node=1 --nodelist=second,third --cpus-per-task=6 --gpus-per-node=2"
        in srun[0]
    )
    assert "--address 10.0.0.1:1 --block --disable-usage-stats --num-cpus 6 --num-gpus 2 " in join[0]
    assert wait[0].endswith("wait_for_nodes 3 180")
    assert told.with_suffix(".joined").read_text() == "700\n"
    gone = f"while compgen -G '{root}*'; do sleep 0.1; done"
    subprocess.run(["bash", "-c", gone], capture_output=True, check=True, timeout=60)


def test_a_node_that_does_not_join_ends_the_job_with_its_log(two_more_nodes: dict[str, str]) -> None:
    srun = Path(two_more_nodes["TOLD"]).with_name("srun")
    srun.write_text("#!/usr/bin/env bash\necho 'srun: error: no such node' >&2\n")
    Path(two_more_nodes["TOLD"]).with_name("python").write_text("#!/usr/bin/env bash\nsleep 0.2; exit 1\n")
    script = """set -euo pipefail; source slurm/env.sh; mkdir -m 700 "$PRISM_ROOT"; export RAY_ADDRESS=10.0.0.1:1
        export RAY_AUTH_TOKEN_PATH=$PRISM_ROOT/token; : >"$RAY_AUTH_TOKEN_PATH"; prism_ray_join"""
    done = _bash(script, two_more_nodes)
    assert done.returncode == 1
    assert "srun: error: no such node" in done.stderr
    assert "prism: cannot start: not all of the 3 nodes have joined; see above. Do they reach 10.0.0.1:1" in done.stderr
    subprocess.run(["rm", "-rf", two_more_nodes["PRISM_ROOT"]], check=True)
