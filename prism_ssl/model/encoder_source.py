"""Locate an exported encoder: a run folder, a file of weights, or an artifact in W&B."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prism_ssl.errors import CheckpointError
from prism_ssl.utils.fs import private_folder, temporary_root
from prism_ssl.utils.wandb_client import client_errors, fetch_artifact, load_client

WEIGHTS_FILE, DESCRIPTION_FILE, CARD_FILE = "encoder.safetensors", "encoder.json", "model_card.md"
EXPORT_FILES = (WEIGHTS_FILE, DESCRIPTION_FILE, CARD_FILE)
"""Files that a finished run writes beside its record, and uploads."""

NEEDED = (
    f"needed: {WEIGHTS_FILE} and {DESCRIPTION_FILE} as a finished run writes them (an interrupted run writes them once "
    "the same command has resumed and finished it), or a W&B artifact as entity/project/name:alias"
)

DEMO = "demo"
"""Names the encoder that ships with the package; ``demo_encoder/model_card.md`` says what it was trained on."""
_DEMO_FOLDER = Path(__file__).with_name("demo_encoder")

_ARTIFACT = re.compile(r"([\w.-]+/){1,2}[\w.-]+:[\w.-]+")
_PATIENCE_S = 90
_ADVICE = "give the folder of a run, or an artifact as entity/project/encoder-<run>:latest"


@contextmanager
def encoder_folder(source: str | Path) -> Iterator[Path]:
    """The folder with the files of an encoder; an artifact is downloaded for the time of the block.

    Args:
        source: a run folder, its ``encoder.safetensors``, ``entity/project/name:alias``, or "demo" (an existing path
            takes precedence).

    Raises:
        CheckpointError: there is no such path; an artifact that arrived is not what was uploaded.
        TrackingError: W&B has no such artifact, or does not answer.
    """
    path = Path(source)
    if not path.exists() and isinstance(source, str) and _ARTIFACT.fullmatch(source):
        parent = private_folder(temporary_root() / "wandb" / "download")
        folder = Path(tempfile.mkdtemp(prefix="encoder-", dir=parent))
        try:
            yield _fetched(source, folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    elif str(source) == DEMO and not path.exists():
        yield _DEMO_FOLDER
    elif path.is_dir():
        yield path
    elif path.name == WEIGHTS_FILE:
        yield path.parent
    else:
        found = "is another file" if path.exists() else "does not exist"
        raise CheckpointError(f"no encoder could be loaded from {path} (it {found}); {NEEDED}")


def _fetched(name: str, folder: Path) -> Path:
    wandb = load_client(temporary_root())
    with client_errors(_ADVICE):
        artifact = wandb.Api(timeout=_PATIENCE_S).artifact(name)
    return fetch_artifact(artifact, folder, _ADVICE)
