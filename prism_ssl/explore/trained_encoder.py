"""Load the encoder of a run from its checkpoint, on this machine or in W&B."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from prism_ssl.config.defaults import apply_overrides, known_keys
from prism_ssl.config.schema import PrismConfig
from prism_ssl.errors import CheckpointError, ConfigError, RunFolderError
from prism_ssl.model.backbone import PrismEncoder
from prism_ssl.model.encoder_source import WEIGHTS_FILE
from prism_ssl.model.export import load_encoder
from prism_ssl.model.network import build_network
from prism_ssl.records.run_files import CHECKPOINT_FILE, settings_of_run
from prism_ssl.records.tracked import OTHERWISE, open_reader
from prism_ssl.records.wandb_api import service_errors
from prism_ssl.train.checkpoint import load_checkpoint
from prism_ssl.train.resume.tracked_checkpoint import fetch_checkpoint
from prism_ssl.train.tracking.identity import TrackedAs
from prism_ssl.utils.fs import private_folder, temporary_root
from prism_ssl.utils.hashing import short_id


@dataclass(frozen=True, eq=False)
class TrainedEncoder:
    """An encoder on the CPU in evaluation mode, its training settings, and its origin in words."""

    encoder: PrismEncoder
    config: PrismConfig
    origin: str


def run_settings(run_id: str) -> PrismConfig:
    """The settings of a run (``run_id`` as ``fetch_runs`` gives it).

    A tracked run does not record its catalogue; its settings name none.

    Raises:
        RunFolderError: the folder holds no settings of this version.
        TrackingError: W&B does not answer.
    """
    if not run_id.startswith("/"):
        with service_errors(OTHERWISE):
            return _settings_of_tracked(dict(open_reader().run(run_id).config))
    return settings_of_run(Path(run_id))


def load_trained(run_id: str) -> TrainedEncoder:
    """The encoder of a run, from its last checkpoint.

    A run folder without a checkpoint is read from its exported weights; a tracked run from the artifact's version
    ``latest``.

    Raises:
        CheckpointError: there is none, or it does not load.
        RunFolderError, TrackingError: as ``run_settings``.
    """
    config = run_settings(run_id)
    if not run_id.startswith("/"):
        path = _fetched(run_id, config)
        return _from_checkpoint(path, config, f"W&B artifact checkpoint-{run_id.split('/')[-1]}:latest")
    folder = Path(run_id)
    if (folder / CHECKPOINT_FILE).exists():
        return _from_checkpoint(folder / CHECKPOINT_FILE, config, CHECKPOINT_FILE)
    if (folder / WEIGHTS_FILE).exists():
        return TrainedEncoder(load_encoder(folder), config, WEIGHTS_FILE)
    raise CheckpointError(
        f"run {folder.name} has neither {CHECKPOINT_FILE} nor {WEIGHTS_FILE}: it ended before its first checkpoint "
        "(train.checkpoint_every); choose another run"
    )


def _from_checkpoint(path: Path, config: PrismConfig, origin: str) -> TrainedEncoder:
    checkpoint = load_checkpoint(path, torch.device("cpu"))
    network = build_network(config.model)
    try:
        network.load_state_dict(checkpoint.learner["network"])
    except (KeyError, RuntimeError) as error:
        raise CheckpointError(f"{path} is not of a {config.model.preset!r} network as its settings say") from error
    return TrainedEncoder(network.eval().encoder, config, f"{origin}, step {checkpoint.step:,}")


def _fetched(run_id: str, config: PrismConfig) -> Path:
    entity, project, name = run_id.split("/")
    folder = private_folder(temporary_root() / "explore" / "checkpoints" / short_id(run_id))
    path = fetch_checkpoint(config, TrackedAs(name, project, "", entity), folder)
    if path is None:
        raise CheckpointError(
            f"run {name} has no checkpoint artifact (see tracking.artifact_every); choose another run, or its folder"
        )
    return path


def _settings_of_tracked(flat: Mapping[str, Any]) -> PrismConfig:
    default = PrismConfig()
    known = known_keys(default)
    said = {key: value for key, value in flat.items() if key in known}
    said["data.phantom_subjects"] = said.get("data.phantom_subjects") or known["data.phantom_subjects"]
    try:
        return apply_overrides(default, said)
    except ConfigError as error:
        raise RunFolderError(f"the settings that W&B has are not of this version ({error})") from error
