"""Where Weights & Biases may write: below the temporary root, and nowhere else; and to no other run than ours."""

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
    """Variables that keep every file of the client below ``tmp_root`` and its words off the console."""
    folders = {variable: str(tmp_root / name) for variable, name in _FOLDERS.items()}
    return folders | {"WANDB_SILENT": "true", "WANDB_CONSOLE": "off", "WANDB_ERROR_REPORTING": "false"}


def enter_wandb_environment(tmp_root: Path) -> None:
    """Make the folders and set the variables; to be called before ``wandb`` is imported, in every process.

    What the user's environment says about these places is overruled: a forgotten WANDB_DIR would fill the home. What
    would make the client write to another run than the one that is asked for is removed.
    """
    environment = wandb_environment(tmp_root)
    for variable in _FOLDERS:
        private_folder(Path(environment[variable]))
    os.environ.update(environment)
    for variable in (*REDIRECTING, "WANDB_SERVICE"):  # the latter: a run here must not live in a parent's client
        os.environ.pop(variable, None)
    tempfile.tempdir = None  # Python remembers the folder from before
