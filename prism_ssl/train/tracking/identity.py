"""The tracked run that a run folder belongs to: tracking.json, beside the checkpoint."""

from __future__ import annotations

import dataclasses
import json
import re
import secrets
from dataclasses import dataclass
from pathlib import Path

from prism_ssl.config.defaults import known_keys
from prism_ssl.config.schema import PrismConfig
from prism_ssl.config.tracking_environment import tracking_project
from prism_ssl.errors import RunFolderError
from prism_ssl.records.run_files import write_json
from prism_ssl.train.run.folder import identities, identity

TRACKING_FILE = "tracking.json"

STAYS_HERE = {"data.catalog_path", "data.columns", "data.holdout_file", "model.init_from", "run.root", "run.tmp_root"}
"""Settings that never leave the machine: paths, and names of columns of patient data."""


@dataclass(frozen=True)
class TrackedAs:
    """The tracked run of a folder. ``settings`` is the hash of the settings that it began with."""

    run_id: str
    project: str
    settings: str
    entity: str | None = None
    url: str | None = None

    @property
    def path(self) -> str:
        """Name of the run in the W&B API."""
        return "/".join(part for part in (self.entity, self.project, self.run_id) if part)

    @property
    def artifact(self) -> str:
        """Name of its checkpoint artifact."""
        return f"checkpoint-{self.run_id}"

    @property
    def encoder_path(self) -> str:
        """Artifact of the exported encoder, for ``load_encoder``."""
        return "/".join(part for part in (self.entity, self.project, f"encoder-{self.run_id}") if part) + ":latest"

    @property
    def artifact_path(self) -> str:
        """Name of the checkpoint artifact in the W&B API."""
        return "/".join(part for part in (self.entity, self.project, self.artifact) if part)


def tracked_as(run_dir: Path, config: PrismConfig) -> TrackedAs:
    """The tracked run of this folder: the existing one if the settings are equal, else a new one."""
    known, project = read_tracked_as(run_dir), tracking_project(config.tracking)
    if known is not None and known.settings in identities(config, run_dir) and known.project == project:
        return known
    name = re.sub(r"[^A-Za-z0-9_.-]", "-", run_dir.name)[:48]  # W&B allows 64 plain characters
    tracked = TrackedAs(f"{name}-{secrets.token_hex(4)}", project, identity(config))
    keep_tracked_as(run_dir, tracked)
    return tracked


def keep_tracked_as(run_dir: Path, tracked: TrackedAs) -> None:
    """Write tracking.json."""
    write_json(run_dir / TRACKING_FILE, dataclasses.asdict(tracked))


def read_tracked_as(run_dir: Path) -> TrackedAs | None:
    """Read tracking.json; None if there is none.

    Raises:
        RunFolderError: the file cannot be read.
    """
    path = run_dir / TRACKING_FILE
    if not path.exists():
        return None
    try:
        return TrackedAs(**json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise RunFolderError(f"{path} cannot be read ({error}); remove it to track as a new run") from error


def public_settings(config: PrismConfig) -> dict[str, object]:
    """Every setting that may leave the machine, flat: ``{"loss.w_distance": 1.0, ...}``."""
    flat = {key: value for key, value in known_keys(config).items() if key not in STAYS_HERE}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in flat.items()}
