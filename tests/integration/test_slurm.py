"""The job scripts, submitted with sbatch to a real Slurm: cancelled, refused, and over the time limit to the end."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.cli_runs import SMALL
from tests.support.shared_memory import abandoned_memory
from tests.support.slurm_jobs import Job, Slurm
from tests.support.wandb_server import WandbServer
from tune.core24 import design_points

pytestmark = pytest.mark.slow

Submit = Callable[..., Job]


@pytest.fixture(scope="module")
def slurm() -> Iterator[Slurm]:
    with tempfile.TemporaryDirectory(prefix="slurm-", dir="/tmp") as folder:
        cluster = Slurm(Path(folder))
        yield cluster
        cluster.down()


@pytest.fixture
def durable() -> Iterator[Path]:
    """A folder for runs that is not below /tmp, which job scripts refuse."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        yield Path(folder)


@pytest.fixture
def submit(slurm: Slurm, durable: Path, tmp_path: Path) -> Iterator[Submit]:
    """Submits a script as a user does; what is still running at the end is cancelled."""
    jobs = []

    def submitted(*arguments: str, **environment: str) -> Job:
        given = {"PRISM_RUNS": str(durable), **environment}
        jobs.append(Job(slurm, tmp_path / "job.out", *arguments, environment=given))
        return jobs[-1]

    yield submitted
    for job in jobs:
        if job.lives:
            job.cancel()
            job.finish(60)


def small_run(catalog: Path, **more: Any) -> list[str]:
    settings = SMALL | {
        "data.catalog-path": catalog, "preflight.concurrency": 2, "tracking.mode": "offline",
        "quota.tmp-min-free-bytes": 10**6, "run.name": "job",
    } | {key.replace("__", ".").replace("_", "-"): value for key, value in more.items()}  # fmt: skip
    return ["phantom-cpu", *(part for key, value in settings.items() for part in (f"--{key}", str(value)))]


def summary_of_job(durable: Path) -> dict[str, Any]:
    summary: dict[str, Any] = json.loads((durable / "job" / "summary.json").read_text())
    return summary


def assert_nothing_left(job: Job) -> None:
    assert not job.root.exists()
    assert job.processes() == []


def test_strangers_get_nowhere_a_pre_empted_job_starts_again_at_its_checkpoint_and_scancel_leaves_nothing(
    slurm: Slurm, submit: Submit, durable: Path, phantom_catalog: Path, tmp_path: Path
) -> None:
    shared_memory = abandoned_memory()
    job = submit("slurm/train_single.sbatch", *small_run(phantom_catalog, train__max_steps=10**6))
    job.wait_for(r"\nstep +20 ")  # a checkpoint is written every 10 steps
    token = job.root / "token"
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert stat.S_IMODE(job.root.stat().st_mode) == 0o700
    port = job.wait_for(r"-L 8265:127\.0\.0\.1:(\d+)")[1]
    assert http_status(f"http://127.0.0.1:{port}/api/version", token=None) == 401
    assert http_status(f"http://127.0.0.1:{port}/api/jobs/", token=None, data=b'{"entrypoint": "id"}') == 401
    assert http_status(f"http://127.0.0.1:{port}/api/jobs/", token="0" * 64) == 403
    joined, said = join_as_a_stranger((job.root / "ray" / "r" / "ray_current_cluster").read_text(), tmp_path)
    assert not joined
    assert re.search("(?i)authenticat|token", said), said
    metrics = job.wait_for(r"http://127\.0\.0\.1:\d+/metrics")[0]
    with urllib.request.urlopen(metrics, timeout=30) as reply:  # open to all who reach the node
        told = reply.read().decode()
    assert "ray_" in told
    assert [private for private in (token.read_text(), str(phantom_catalog.parent), "PH0001") if private in told] == []
    assert http_status(f"http://127.0.0.1:{port}/api/version", token=token.read_text()) == 200
    commands = [Path(f"/proc/{pid}/cmdline").read_bytes().decode() for pid in job.processes()]
    assert commands
    assert [command for command in commands if token.read_text() in command] == []

    slurm.run("scontrol", "requeue", job.id)  # what pre-emption does: TERM to every process, then KILL
    resumed = int(job.wait_for(r"(?s)start 2, .*run job resumes at step (\d+) from .*last\.ckpt")[1])
    assert resumed >= 10
    job.wait_for(rf"(?s)start 2, .*\nstep +{resumed // 5 * 5 + 5} ")
    assert summary_of_job(durable)["status"] == "running"
    assert_gone_after_scancel(job, shared_memory)


def assert_gone_after_scancel(job: Job, shared_memory: set[Path]) -> None:
    job.cancel()
    assert job.finish() == "CANCELLED", job.log
    assert_nothing_left(job)
    assert abandoned_memory() <= shared_memory


def join_as_a_stranger(address: str, home: Path) -> tuple[bool, str]:
    """Whether a Ray client without the token can join, and what it says."""
    code = "import sys, ray; ray.init(address=sys.argv[1], log_to_driver=False)"
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")} | {"HOME": str(home)}
    result = subprocess.run(
        [sys.executable, "-c", code, address], env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    return result.returncode == 0, result.stderr


def http_status(url: str, token: str | None, data: bytes | None = None) -> int:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=30) as reply:
            return int(reply.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def test_a_missing_catalogue_ends_the_job_before_anything_is_started(submit: Submit, tmp_path: Path) -> None:
    job = submit("slurm/train_single.sbatch", "--tracking.mode", "offline", PRISM_CATALOG=str(tmp_path / "gone.csv"))
    assert job.finish() == "FAILED"
    assert f"CatalogError: catalogue {tmp_path}/gone.csv does not exist; set data.catalog_path" in job.log
    assert "Ray dashboard" not in job.log
    assert not job.root.exists()


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"PRISM_PYTHON": "/nowhere/python"}, "no Python at /nowhere/python; run 'make install' once"),
        ({"PRISM_RUNS": "/tmp/runs"}, "PRISM_RUNS is /tmp/runs, which is gone with the job"),
        pytest.param(
            {"PRISM_ALLOW_CPU": ""},
            "but nvidia-smi on .* shows fewer",
            marks=pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="there is a GPU here"),
        ),
        ({"PRISM_REPO": "/nowhere"}, "no slurm/env.sh below /nowhere; submit from the repository"),
    ],
)
def test_a_node_or_site_that_is_not_ready_is_named(submit: Submit, environment: dict[str, str], message: str) -> None:
    job = submit("slurm/train_single.sbatch", "phantom-cpu", **environment)
    assert job.finish() == "FAILED"
    assert re.search(f"prism: cannot start: .*{message}", job.log), job.log
    assert not job.root.exists()


def test_online_tracking_without_a_key_is_named(submit: Submit, tmp_path: Path) -> None:
    job = submit("slurm/train_single.sbatch", "phantom-cpu", WANDB_API_KEY="", HOME=str(tmp_path))
    assert job.finish() == "FAILED"
    assert "TrackingError: no W&B key was found; set WANDB_API_KEY" in job.log


def test_a_job_of_the_guides_resources_checkpoints_at_its_time_limit_requeues_and_resumes_to_its_end(
    slurm: Slurm, submit: Submit, durable: Path, phantom_catalog: Path, tmp_path: Path, wandb_server: WandbServer
) -> None:
    settings = small_run(phantom_catalog, train__max_steps=400, train__checkpoint_every=10**6, tracking__mode="online")
    job = submit(
        "--signal=B:USR1@150", "slurm/train_single.sbatch", *settings, **wandb_server.environment(tmp_path / "wandb")
    )  # fmt: skip
    job.wait_for(r"\nstep +10 ")
    assert (job.fact("Partition"), job.fact("NumCPUs"), job.fact("TimeLimit")) == ("dgx-b200", "16", "1-00:00:00")
    assert job.fact("TresPerJob") == "gres:gpu:1"
    assert "mem=256G" in job.fact("TRES")
    with job.standing_still("TrainWorker"):  # Slurm looks at time limits twice a minute only
        job.reach_time_limit()  # less than 150 s away: the warning is due
        job.wait_for_file(job.root / f"stop-{job.id}", min_bytes=0)
    job.wait_for("the job goes back into the queue")
    interrupted, tracked = summary_of_job(durable), wandb_server.run
    assert (interrupted["status"], tracked.state, tracked.exit_code) == ("interrupted", "failed", 143), job.log
    assert 10 <= interrupted["steps_done"] < 400

    job.extend()
    job.wait_for(rf"(?s)start 2, .*run job resumes at step {interrupted['steps_done']} from .*last\.ckpt")
    assert job.finish() == "COMPLETED", job.log
    assert job.fact("Restarts") == "1"
    summary = summary_of_job(durable)
    assert (summary["status"], summary["steps_done"]) == ("ok", 400)
    assert summary["resumed_from_step"] == interrupted["steps_done"]
    assert (wandb_server.run.state, wandb_server.run.exit_code) == ("finished", 0)  # the same run: there is one
    assert wandb_server.run.global_steps == list(range(5, 401, 5))
    assert sorted(path.name for path in (durable / "job").glob("*.ckpt")) == ["last.ckpt"]
    assert "http://127.0.0.1:8265" in job.log
    assert re.search(r"\b[0-9a-f]{64}\b", job.log) is None, "the token is in the log"
    assert_nothing_left(job)


def test_a_sweep_goes_on_where_it_was_asked_to_stop_and_runs_to_its_end(
    slurm: Slurm, submit: Submit, durable: Path, phantom_catalog: Path, tmp_path: Path, wandb_server: WandbServer
) -> None:
    job = submit(
        "slurm/tune_core24.sbatch", *small_sweep(phantom_catalog, max_steps=200), "--tracking.mode", "online",
        **wandb_server.environment(tmp_path / "wandb"),
    )  # fmt: skip
    job.wait_for(r"\nstep +20 ")
    slurm.run("scancel", "--batch", "--signal=USR1", job.id)  # what --signal=B:USR1@300 sends
    job.wait_for("the job goes back into the queue")
    (first,) = summaries_of_sweep(durable)  # the second cell never began
    assert (first["status"], first["checkpoint"] is not None) == ("interrupted", True), job.log
    assert job.finish() == "COMPLETED", job.log
    assert (job.fact("Restarts"), job.fact("NumCPUs"), job.fact("TresPerJob")) == ("1", "16", "gres:gpu:1")
    summaries = summaries_of_sweep(durable)
    assert [(summary["status"], summary["steps_done"]) for summary in summaries] == [("ok", 200)] * 2
    assert [summary["resumed_from_step"] for summary in summaries] == [first["steps_done"], None]
    assert sorted(run.state for run in wandb_server.runs.values()) == ["finished"] * 2
    assert [run.global_steps for run in wandb_server.runs.values()] == [list(range(10, 201, 10))] * 2
    assert [path.name for path in durable.glob("*/ranking.md")] == ["ranking.md"]
    assert_nothing_left(job)


def test_scancel_of_a_sweep_leaves_nothing(submit: Submit, phantom_catalog: Path) -> None:
    shared_memory = abandoned_memory()
    sweep = small_sweep(phantom_catalog, max_steps=10**6)
    job = submit("slurm/tune_core24.sbatch", *sweep, "--tracking.mode", "offline")
    job.wait_for(r"\nstep +20 ")
    assert job.processes()
    assert_gone_after_scancel(job, shared_memory)


def small_sweep(catalog: Path, max_steps: int) -> list[str]:
    return [
        "--scale", "smoke", "--only", *(point.name for point in design_points("half")[:2]), "--max-steps",
        str(max_steps), "--data.catalog-path", str(catalog), "--train.checkpoint-every", "1000", "--train.log-every",
        "10", "--quota.tmp-min-free-bytes", "1000000", "--preflight.concurrency", "2",
    ]  # fmt: skip


def summaries_of_sweep(durable: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(durable.glob("*/*/summary.json"))]


def test_the_smoke_test_of_a_cluster_verifies_what_was_tracked_and_nothing_private_was(
    submit: Submit, durable: Path, phantom_catalog: Path, tmp_path: Path, wandb_server: WandbServer
) -> None:
    settings = small_run(phantom_catalog, train__max_steps=12, tracking__artifact_every=6, tracking__mode="online")
    without = {"--run.name", "--train.batch-size"}  # the script's own
    pairs = zip(settings[1::2], settings[2::2], strict=True)
    options = [part for key, value in pairs if key not in without for part in (key, value)]
    job = submit("slurm/smoke_cluster.sbatch", "phantom-cpu", *options, **wandb_server.environment(tmp_path / "wandb"))
    token = job.wait_for_file(job.root / "token").read_text()
    assert job.finish(500) == "COMPLETED", job.log
    assert "FAIL" not in job.log
    assert "not checked" not in job.log
    assert len(re.findall("W&B has a checkpoint", job.log)) == 3
    summaries = [json.loads(path.read_text()) for path in sorted(durable.glob("smoke-*/summary.json"))]
    assert [summary["status"] for summary in summaries] == ["ok"] * 3
    sent = [request.path.encode() + request.body for request in wandb_server.received]
    for private in (token, str(phantom_catalog.parent), str(durable), "PH0001"):
        assert [body for body in sent if private.encode() in body] == [], private
