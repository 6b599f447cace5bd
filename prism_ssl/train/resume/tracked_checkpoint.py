"""Find, download and verify the checkpoint that a tracked run keeps in W&B."""

from __future__ import annotations

from pathlib import Path

from prism_ssl.config.schema import PrismConfig
from prism_ssl.config.tracking_environment import settled, tracking_mode
from prism_ssl.records.run_files import CHECKPOINT_FILE
from prism_ssl.records.wandb_api import open_api, service_errors
from prism_ssl.train.logging import GLOBAL_STEP, SETTINGS_HASH
from prism_ssl.train.run.folder import identities, identity
from prism_ssl.train.tracking.identity import TrackedAs, read_tracked_as
from prism_ssl.utils.wandb_client import fetch_artifact


def find_tracked(config: PrismConfig, run_dir: Path) -> TrackedAs | None:
    """Online: the tracked run of this folder, or of a lost folder of the same run; None if there is none.

    Without tracking.json it is the user's last run with the same name and settings that has not finished.

    Raises:
        TrackingError: the server does not answer.
    """
    if tracking_mode(config.tracking) != "online":
        return None
    known = read_tracked_as(run_dir)
    if known is not None:
        return known if known.settings in identities(config, run_dir) else None
    api = open_api(config)
    wanted = {
        "display_name": run_dir.name,
        f"config.{SETTINGS_HASH}.value": {"$in": list(identities(config, run_dir))},
        "state": {"$in": ["failed", "crashed", "killed", "preempted"]},
    }
    tracking = settled(config.tracking)
    project = "/".join(part for part in (tracking.entity, tracking.project) if part)
    with service_errors():
        try:
            runs = list(api.runs(project, filters=wanted, order="-created_at"))
        except ValueError:  # the project does not exist yet
            return None
        mine = [run for run in runs if run.user.username == api.viewer.username]
        if not mine:
            return None
        return TrackedAs(mine[0].id, mine[0].project, identity(config), mine[0].entity, mine[0].url)


def uploaded_step(config: PrismConfig, run_dir: Path) -> int | None:
    """The step of the ``latest`` checkpoint that the server holds for this folder's tracked run; None without one.

    Raises:
        TrackingError: the server does not answer.
    """
    tracked = read_tracked_as(run_dir)
    if tracking_mode(config.tracking) != "online" or tracked is None:
        return None
    api, name = open_api(config), f"{tracked.artifact_path}:latest"
    with service_errors():
        step = api.artifact(name).metadata.get(GLOBAL_STEP) if api.artifact_exists(name) else None
    return None if step is None else int(step)


def fetch_checkpoint(config: PrismConfig, tracked: TrackedAs, into: Path) -> Path | None:
    """Download the ``latest`` checkpoint of a tracked run to the folder ``into``; None if it has none.

    Raises:
        TrackingError: the server does not answer.
        CheckpointError: the download differs from the upload.
    """
    api = open_api(config)
    name = f"{tracked.artifact_path}:latest"
    with service_errors():
        if not api.artifact_exists(name):
            return None
        artifact = api.artifact(name)
    return fetch_artifact(artifact, into, "pass --run.name for a new run, which starts at step 0") / CHECKPOINT_FILE
