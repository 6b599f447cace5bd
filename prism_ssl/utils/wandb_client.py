"""W&B client: import it with its folders set, convert its errors, fetch and verify artifacts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prism_ssl.errors import CheckpointError, TrackingError
from prism_ssl.utils.wandb_paths import enter_wandb_environment


def load_client(tmp_root: Path) -> Any:
    """The module ``wandb``, imported after its environment is set, so that its files go below ``tmp_root``."""
    enter_wandb_environment(tmp_root)
    import wandb

    return wandb


@contextmanager
def client_errors(advice: str) -> Iterator[None]:
    """Convert the client's errors in the block to a ``TrackingError`` that ends with ``advice``."""
    import wandb

    try:
        yield
    except (wandb.Error, ValueError, OSError, TimeoutError) as error:
        text = f"W&B cannot be used ({type(error).__name__}: {str(error).splitlines()[0]}); "
        raise TrackingError(f"{text}look at WANDB_API_KEY and WANDB_BASE_URL, or {advice}") from error


def fetch_artifact(artifact: Any, into: Path, advice: str) -> Path:
    """Download an artifact of ``wandb.Api`` to the folder ``into``, and return the folder.

    Raises:
        TrackingError: the server does not answer.
        CheckpointError: what arrived is not what was uploaded; the text ends with ``advice``.
    """
    with client_errors(advice):
        folder = Path(artifact.download(root=str(into), skip_cache=True))
    try:
        artifact.verify(str(folder))
    except ValueError as error:
        raise CheckpointError(f"the W&B artifact {artifact.name} is damaged ({error}); {advice}") from error
    return folder
