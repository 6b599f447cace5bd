"""Environment that keeps W&B's files below the temporary root, and its records in our own run."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from prism_ssl.config.tracking_environment import REDIRECTING
from prism_ssl.utils.fs import private_folder

_FOLDERS = {
    "WANDB_DIR": "wandb/runs",
    "WANDB_CACHE_DIR": "wandb/cache",
    "WANDB_DATA_DIR": "wandb/staging",  # otherwise ~/.local/share/wandb, where copies of checkpoints fill the home
    "WANDB_ARTIFACT_DIR": "wandb/artifacts",
    "WANDB_CONFIG_DIR": "wandb/config",
    "TMPDIR": "tmp",
}


def wandb_environment(tmp_root: Path) -> dict[str, str]:
    """Variables that keep every file of the client below ``tmp_root`` and its output off the console."""
    folders = {variable: str(tmp_root / name) for variable, name in _FOLDERS.items()}
    return folders | {"WANDB_SILENT": "true", "WANDB_CONSOLE": "off", "WANDB_ERROR_REPORTING": "false"}


def enter_wandb_environment(tmp_root: Path) -> None:
    """Create the folders and set the variables; call it before ``wandb`` is imported, in every process.

    The user's values for these folders are overridden, because a forgotten WANDB_DIR would fill the home. Variables
    that would make the client write to another run are removed.
    """
    environment = wandb_environment(tmp_root)
    for variable in _FOLDERS:
        private_folder(Path(environment[variable]))
    os.environ.update(environment)
    for variable in (*REDIRECTING, "WANDB_SERVICE"):  # the latter: a run must not use a parent's client
        os.environ.pop(variable, None)
    tempfile.tempdir = None  # Python caches the earlier folder
