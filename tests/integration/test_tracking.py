"""The tracker with the real client, against a server on the loopback: what arrives, and what an outage may not do."""

from __future__ import annotations

import math
import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

import prism_ssl
from prism_ssl.config.defaults import apply_overrides, phantom_cpu
from prism_ssl.config.schema import PrismConfig
from prism_ssl.contracts import RunStatus, RunSummary
from prism_ssl.errors import CheckpointError, TrackingError
from prism_ssl.model.backbone import build_encoder
from prism_ssl.model.encoder_source import CARD_FILE
from prism_ssl.model.export import save_encoder
from prism_ssl.records.run_files import LocalRecord
from prism_ssl.train.logging import Tracker, check_account, checkpoint_due, end_lost_run, start_tracker
from prism_ssl.train.tracking.identity import read_tracked_as
from prism_ssl.utils.fs import temporary_root, write_atomic
from tests.conftest import REPOSITORY
from tests.support.wandb_server import API_KEY, WandbServer


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "runs" / "patient-4711-run"
    folder.mkdir(parents=True)
    return folder


def settings(root: Path, **overrides: Any) -> PrismConfig:
    """A run below ``root`` that is tracked online by an impatient tracker; ``a__b`` stands for ``a.b``."""
    values = {
        "tracking.mode": "online", "tracking.artifact_every": 10, "tracking.finish_timeout_s": 20.0,
        "tracking.init_timeout_s": 10.0, "run.root": str(root / "runs"), "run.tmp_root": str(root / "tmp"),
        "train.max_steps": 1000, "data.catalog_path": str(root / "secret" / "catalog.csv"),
        "data.columns": {"pmbb_id": "mrn"},
    }  # fmt: skip
    return apply_overrides(phantom_cpu(), values | {key.replace("__", "."): v for key, v in overrides.items()})


def end(tracker: Tracker, run_dir: Path, status: RunStatus = "ok", cause: str | None = None) -> dict[str, str]:
    totals = {"throughput_effective_patches_per_sec": 5.0, "undefined": math.nan}
    summary = RunSummary(
        run_dir.name, status, cause, 20, 20, None, str(run_dir), totals=totals, probe={"recall_at_1": 0.5}
    )
    return tracker.finish(summary)


def upload(tracker: Tracker, run_dir: Path, step: int, content: bytes) -> None:
    write_atomic(run_dir / "last.ckpt", content)  # as a run does: an upload that waits keeps the file it opened
    tracker.checkpoint(run_dir / "last.ckpt", step)


# ---------------------------------------------------------------------- what arrives
def test_settings_rows_and_summary_arrive_and_nothing_that_stays_here(
    wandb_server: WandbServer, tmp_path: Path, run_dir: Path
) -> None:
    config = settings(tmp_path, tracking__group="sweep", tracking__tags=("a", "b"))
    tracker = start_tracker(config, run_dir, 0)
    for step in (10, 20):
        tracker.row(step, {"loss/total": 1 / step, "skill/dx": math.nan})
    upload(tracker, run_dir, 20, b"weights")
    told = end(tracker, run_dir, "failed", f"ReplacementFailed: scan 1: no file {tmp_path}/secret/patient.nii.gz")

    run = wandb_server.run
    assert [(row["global_step"], row["loss/total"]) for row in run.history] == [(10, 0.1), (20, 0.05)]
    assert not any("skill/dx" in row for row in run.history)
    assert (run.state, run.exit_code) == ("failed", 1)
    assert run.settings["loss.w_distance"] == 1.0
    assert (run.fields["displayName"], run.fields["groupName"], run.fields["tags"]) == (
        run_dir.name,
        "sweep",
        ["a", "b"],
    )
    assert run.summary["throughput_effective_patches_per_sec"] == 5.0
    assert (run.summary["probe/recall_at_1"], run.summary["cause"]) == (0.5, "ReplacementFailed")
    assert told == {"mode": "online", "run_id": run.name, "url": f"{wandb_server.url}/tester/prism-ssl/runs/{run.name}"}
    for secret in (str(tmp_path), "secret", "mrn", "patient.nii", API_KEY, str(Path.home())):
        assert wandb_server.holding(secret) == []


def test_the_step_axis_is_our_own(wandb_server: WandbServer, tmp_path: Path, run_dir: Path) -> None:
    end(start_tracker(settings(tmp_path), run_dir, 0), run_dir)
    metrics = str(wandb_server.run.config["_wandb"]["value"]["m"])
    assert "global_step" in metrics


def test_pictures_of_the_run_folder_become_media(wandb_server: WandbServer, tmp_path: Path, run_dir: Path) -> None:
    from matplotlib.figure import Figure

    (run_dir / "plots").mkdir()
    for path in (run_dir / "view_panel.png", run_dir / "plots" / "loss.png"):
        Figure(figsize=(1, 1)).savefig(path)
    told = end(start_tracker(settings(tmp_path), run_dir, 0), run_dir)
    assert "problem" not in told
    pictures = [key for key, blob in wandb_server.blobs.items() if blob.startswith(b"\x89PNG")]
    assert sorted(Path(key).name.split("_")[0] for key in pictures) == ["loss", "view"]


def kept_steps(server: WandbServer) -> list[int]:
    """Steps of the checkpoints that the server has."""
    return [a.metadata["global_step"] for a in server.artifacts.values() if a.state == "COMMITTED"]


def join_uploads() -> None:
    for thread in threading.enumerate():
        if thread.name == "checkpoint-upload":
            thread.join(30)


def temporary_uploads(config: PrismConfig) -> list[Path]:
    folder = temporary_root(config.run.tmp_root) / "wandb" / "upload"
    return [path for path in folder.rglob("*") if path.is_file()]


def test_a_checkpoint_is_uploaded_as_it_was_and_only_the_latest_version_kept(
    wandb_server: WandbServer, tmp_path: Path, run_dir: Path
) -> None:
    config = settings(tmp_path)
    tracker = start_tracker(config, run_dir, 0)
    for step in (10, 20):
        upload(tracker, run_dir, step, f"weights of {step}".encode())
        (run_dir / "last.ckpt").unlink()  # the next one takes its name while the upload is under way
        join_uploads()
        assert kept_steps(wandb_server) == [step]
    assert "problem" not in end(tracker, run_dir)
    assert [blob for key, blob in wandb_server.blobs.items() if key.endswith("last.ckpt")] == [b"weights of 20"]
    assert temporary_uploads(config) == []


def test_artifacts_are_due_every_n_steps_and_at_the_end_and_online_only(tmp_path: Path) -> None:
    config = settings(tmp_path, train__max_steps=25)
    assert [step for step in range(1, 26) if checkpoint_due(config, step)] == [10, 20, 25]
    for elsewhere in ("offline", "disabled"):
        assert not checkpoint_due(settings(tmp_path, tracking__mode=elsewhere), 10)


def test_an_exported_encoder_is_uploaded_and_loads_bit_for_bit_from_its_name(
    wandb_server: WandbServer, tmp_path: Path, run_dir: Path
) -> None:
    torch.manual_seed(0)
    encoder = build_encoder("tiny").eval()
    path = save_encoder(encoder, run_dir, {"preset": "tiny", "run": "the run"})
    (run_dir / CARD_FILE).write_text("# Card")
    summary = RunSummary(run_dir.name, "ok", None, 20, 20, None, str(run_dir), encoder=str(path))
    told = start_tracker(settings(tmp_path), run_dir, 0).finish(summary)

    assert "problem" not in told
    assert told["encoder"] == f"tester/prism-ssl/encoder-{told['run_id']}:latest"
    loaded = prism_ssl.load_encoder(told["encoder"])
    patches, positions = torch.rand(2, 5, 16, 16, 1), torch.randn(2, 5, 3)
    with torch.no_grad():
        assert torch.equal(loaded(patches, positions), encoder(patches, positions))
    assert wandb_server.holding(str(tmp_path)) == []
    with pytest.raises(TrackingError, match=r"W&B cannot be used .*give the folder of a run, or an artifact as"):
        prism_ssl.load_encoder("tester/prism-ssl/encoder-of-nobody:latest")
    (weights,) = (key for key in wandb_server.blobs if key.endswith("encoder.safetensors"))
    wandb_server.blobs[weights] = wandb_server.blobs[weights][:-1] + b"x"
    with pytest.raises(CheckpointError, match="damaged"):
        prism_ssl.load_encoder(told["encoder"])


# ---------------------------------------------------------------------- outages
def test_an_upload_that_fails_is_said_and_its_file_kept(
    wandb_server: WandbServer, tmp_path: Path, run_dir: Path
) -> None:
    config = settings(tmp_path)
    tracker = start_tracker(config, run_dir, 0)
    wandb_server.refused.add("createArtifact")
    upload(tracker, run_dir, 10, b"weights")
    told = end(tracker, run_dir)
    assert "a checkpoint was not uploaded (ValueError" in told["problem"]
    assert [path.read_bytes() for path in temporary_uploads(config)] == [b"weights"]
    assert wandb_server.run.state == "finished"


@pytest.mark.parametrize("fault", ["error", "drop", "stall"])
def test_an_outage_in_the_middle_holds_up_no_step_and_loses_no_row(
    wandb_server: WandbServer, tmp_path: Path, run_dir: Path, fault: Any
) -> None:
    tracker = start_tracker(settings(tmp_path), run_dir, 0)
    with wandb_server.failing(fault):
        for step in range(1, 10):
            tracker.row(step, {"loss/total": 1.0})
        for step in (10, 15, 20):
            upload(tracker, run_dir, step, f"weights of {step}".encode())
        wandb_server.wait_until(lambda: wandb_server.failed)
    told = end(tracker, run_dir)
    assert wandb_server.run.global_steps == list(range(1, 10))
    assert "problem" not in told
    assert kept_steps(wandb_server) == [20]  # it waited for that of step 10


def test_an_outage_at_the_end_is_said_and_waited_for_no_longer_than_is_set(
    wandb_server: WandbServer, tmp_path: Path, run_dir: Path
) -> None:
    tracker = start_tracker(settings(tmp_path, tracking__finish_timeout_s=4.0), run_dir, 0)
    wandb_server.begin_failing("drop")
    tracker.row(1, {"loss/total": 1.0})
    told = end(tracker, run_dir)
    assert "the end of the run was not tracked (TimeoutError" in told["problem"]
    assert Path(told["files"]).is_dir()


@pytest.mark.parametrize(
    ("arrange", "match"),
    [
        (lambda server, patch: patch.delenv("WANDB_API_KEY"), "no W&B key was found; set WANDB_API_KEY, or pass --tr"),
        (
            lambda server, patch: patch.setenv("WANDB_API_KEY", "short"),
            r"cannot be used \(AuthenticationError: .*API_KEY",
        ),
        (lambda server, patch: setattr(server, "api_key", "other"), r"cannot be used .*look at WANDB_API_KEY"),
        (lambda server, patch: server.begin_failing("drop"), "cannot be used .*pass --tracking.mode offline"),
        (lambda server, patch: server.begin_failing("stall"), "cannot be used .*pass --tracking.mode offline"),
    ],
    ids=["no key", "no real key", "refused key", "no server", "silent server"],
)
def test_tracking_that_cannot_begin_is_refused_before_and_at_the_start(
    wandb_server: WandbServer, tmp_path: Path, run_dir: Path, monkeypatch: pytest.MonkeyPatch, arrange: Any, match: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    arrange(wandb_server, monkeypatch)
    config = settings(tmp_path, tracking__init_timeout_s=2.0)
    with pytest.raises(TrackingError, match=match):
        check_account(config)
    with pytest.raises(TrackingError, match=r"pass --tracking.mode offline \(or disabled\) to train without it"):
        start_tracker(config, run_dir, 0)
    assert wandb_server.runs == {}


# ---------------------------------------------------------------------- how a run ends, and goes on
@pytest.mark.parametrize(
    ("status", "cause", "state", "exit_code"),
    [
        ("ok", None, "finished", 0),
        ("failed", "NonFiniteLoss: ...", "failed", 1),
        ("failed", "RunInterrupted: ...", "failed", 143),
    ],
)
def test_the_state_is_the_runs_own(
    wandb_server: WandbServer, tmp_path: Path, run_dir: Path, status: Any, cause: Any, state: str, exit_code: int
) -> None:
    end(start_tracker(settings(tmp_path), run_dir, 0), run_dir, status, cause)
    assert (wandb_server.run.state, wandb_server.run.exit_code) == (state, exit_code)
    assert wandb_server.run.summary["status"] == status


def record(run_dir: Path, steps: range) -> None:
    local = LocalRecord(run_dir)
    for step in steps:
        local.row(step, {"loss/total": 1 / step, "skill/dx": math.nan})
    local.close()


def test_a_resumed_run_sends_what_the_server_lacks_and_nothing_twice(
    wandb_server: WandbServer, tmp_path: Path, run_dir: Path
) -> None:
    config = settings(tmp_path)
    first = start_tracker(config, run_dir, 0)
    for step in (1, 2, 3):
        first.row(step, {"loss/total": 1 / step})
    end(first, run_dir, "failed", "killed")
    # The local record is ahead by an evaluation and three rows: the process was killed before they were sent.
    record(run_dir, range(1, 4))
    local = LocalRecord(run_dir)
    local.row(3, {"probe/recall_at_1": 0.5})
    local.close()
    record(run_dir, range(4, 7))

    for step in (7, 8):
        tracker = start_tracker(config, run_dir, step - 1)
        tracker.row(step, {"loss/total": 1 / step})
        end(tracker, run_dir)
        record(run_dir, range(step, step + 1))
    run = wandb_server.run
    assert run.global_steps == [1, 2, 3, 4, 5, 6, 7, 8]
    assert [row["loss/total"] for row in run.history if "loss/total" in row] == [
        pytest.approx(1 / step) for step in range(1, 9)
    ]
    assert [row["global_step"] for row in run.history if "probe/recall_at_1" in row] == [3]
    assert run.state == "finished"


def test_steps_that_are_trained_again_are_not_sent_again(
    wandb_server: WandbServer, tmp_path: Path, run_dir: Path
) -> None:
    config = settings(tmp_path)
    for steps in (range(1, 6), range(3, 9)):  # the checkpoint was at 2
        tracker = start_tracker(config, run_dir, steps[0] - 1)
        for step in steps:
            tracker.row(step, {"loss/total": 1.0})
        end(tracker, run_dir)
    assert wandb_server.run.global_steps == list(range(1, 9))


def test_other_settings_are_another_run(wandb_server: WandbServer, tmp_path: Path, run_dir: Path) -> None:
    for lr in (1.0, 2.0):
        end(start_tracker(settings(tmp_path, train__lr=lr), run_dir, 0), run_dir)
    assert [run.settings["train.lr"] for run in wandb_server.runs.values()] == [1.0, 2.0]


def test_the_run_of_a_worker_that_was_killed_is_ended_as_failed_with_all_its_rows(
    wandb_server: WandbServer, tmp_path: Path, run_dir: Path
) -> None:
    config = settings(tmp_path)
    script = """
import os, pickle, sys
from pathlib import Path
from prism_ssl.train.logging import start_tracker
config, run_dir = pickle.loads(bytes.fromhex(sys.argv[1]))
tracker = start_tracker(config, run_dir, 0)
tracker.row(1, {"loss/total": 1.0})
os.kill(os.getpid(), 9)
"""
    argument = pickle.dumps((config, run_dir)).hex()
    died = subprocess.run([sys.executable, "-c", script, argument], cwd=REPOSITORY, check=False)
    assert died.returncode == -9
    assert wandb_server.run.state == "running"
    record(run_dir, range(1, 4))
    summary = RunSummary(run_dir.name, "failed", "TrainWorkerDied: ...", 3, 20, None, str(run_dir))
    told = end_lost_run(config, run_dir, summary)
    assert told["run_id"] == wandb_server.run.name
    assert (wandb_server.run.state, wandb_server.run.exit_code) == ("failed", 1)
    assert wandb_server.run.global_steps == [1, 2, 3]


# ---------------------------------------------------------------------- the other modes
def test_offline_needs_neither_key_nor_server_and_says_where_the_files_are(
    wandb_server: WandbServer, tmp_path: Path, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_API_KEY")
    config = settings(tmp_path, tracking__mode="offline")
    check_account(config)
    tracker = start_tracker(config, run_dir, 0)
    tracker.row(1, {"loss/total": 1.0})
    told = end(tracker, run_dir)
    assert set(told) == {"mode", "run_id", "files"}
    assert Path(told["files"]).is_relative_to(tmp_path / "tmp")
    assert list(Path(told["files"]).glob("*.wandb"))
    assert wandb_server.received == []


def test_disabled_does_not_even_import_the_client(tmp_path: Path, run_dir: Path) -> None:
    script = f"""
import sys
import threading
from pathlib import Path
from prism_ssl.config.defaults import apply_overrides, phantom_cpu
from prism_ssl.train.logging import check_account, start_tracker
config = apply_overrides(phantom_cpu(), {{"tracking.mode": "disabled", "run.tmp_root": {str(tmp_path)!r}}})
check_account(config)
tracker = start_tracker(config, Path({str(run_dir)!r}), 0)
tracker.row(1, {{"a": 1.0}})
print("wandb" in sys.modules)
"""
    told = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "False"
    assert not list(tmp_path.glob("prism_ssl/wandb"))


def test_nothing_lands_in_the_home_or_in_the_working_directory_or_on_the_console(
    wandb_server: WandbServer, tmp_path: Path, run_dir: Path
) -> None:
    script = """
import pickle, sys
from tests.integration.test_tracking import end, upload
from prism_ssl.train.logging import check_account, start_tracker
config, run_dir = pickle.loads(bytes.fromhex(sys.argv[1]))
check_account(config)
tracker = start_tracker(config, run_dir, 0)
tracker.row(1, {"loss/total": 1.0})
upload(tracker, run_dir, 10, b"weights")
end(tracker, run_dir)
"""
    places = {name: tmp_path / name for name in ("home", "here")}
    for place in places.values():
        place.mkdir()
    names = ("WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR", "WANDB_ARTIFACT_DIR", "WANDB_CONFIG_DIR", "TMPDIR")
    environment = {name: value for name, value in os.environ.items() if name not in names}
    done = subprocess.run(
        [sys.executable, "-c", script, pickle.dumps((settings(tmp_path), run_dir)).hex()],
        cwd=places["here"], env=environment | {"HOME": str(places["home"]), "PYTHONPATH": str(REPOSITORY)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert {name: list(place.rglob("*")) for name, place in places.items()} == {"home": [], "here": []}
    assert wandb_server.run.state == "finished"


@pytest.mark.parametrize(
    "variables",
    [
        {"WANDB_SWEEP_ID": "s1", "WANDB_RUN_ID": "agentrun1", "WANDB_PROJECT": "other", "WANDB_SWEEP_PARAM_PATH": "/x"},
        {"WANDB_LAUNCH": "true", "WANDB_CONFIG": "{}", "WANDB_RUN_ID": "agentrun1", "WANDB_PROJECT": "other"},
        {"WANDB_RUN_ID": "agentrun1", "WANDB_RESUME": "must"},
        {"WANDB_RESUME_FROM": "agentrun1?_step=1"},
        {"WANDB_FORK_FROM": "agentrun1?_step=1"},
    ],
    ids=lambda variables: next(iter(variables)),
)
@pytest.mark.parametrize("mode", ["online", "offline"])
def test_no_variable_makes_the_client_track_another_run_than_the_folder_names(
    wandb_server: WandbServer,
    tmp_path: Path,
    run_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    mode: str,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    config = settings(tmp_path, tracking__project="mine", tracking__mode=mode)
    told = end(start_tracker(config, run_dir, 0), run_dir)
    tracked = read_tracked_as(run_dir)
    assert tracked is not None
    assert (told["run_id"], tracked.project, told.get("problem")) == (tracked.run_id, "mine", None)
    assert tracked.run_id.startswith("patient-4711-run-")
    seen = [(run.project, run.name) for run in wandb_server.runs.values()]
    assert seen == ([("mine", tracked.run_id)] if mode == "online" else [])
    if mode == "offline":
        assert tracked.run_id in Path(told["files"]).name


def test_the_record_names_the_run_that_is_tracked_even_if_it_is_not_the_one_asked_for(
    wandb_server: WandbServer, tmp_path: Path, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import wandb

    monkeypatch.setenv("WANDB_SWEEP_ID", "s1")
    monkeypatch.setenv("WANDB_RUN_ID", "agentrun1")
    monkeypatch.setenv("WANDB_PROJECT", "other")
    wandb.setup()  # a client that is in use in this process already has read its variables
    told = end(start_tracker(settings(tmp_path, tracking__project="mine"), run_dir, 0), run_dir)
    (run,) = wandb_server.runs.values()
    tracked = read_tracked_as(run_dir)
    assert tracked is not None
    assert (tracked.project, tracked.run_id, told["run_id"]) == (run.project, run.name, run.name)
    assert (run.project, run.name) == ("other", "agentrun1")
    assert (
        "W&B tracks this run as tester/other/agentrun1, not as the requested mine/patient-4711-run-" in told["problem"]
    )
