"""The encoder as something to take away: weights as safetensors, its construction as JSON beside them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save

from prism_ssl.errors import CheckpointError
from prism_ssl.model.backbone import PrismEncoder, build_encoder
from prism_ssl.utils.fs import write_atomic

WEIGHTS_FILE, DESCRIPTION_FILE = "encoder.safetensors", "encoder.json"


def save_encoder(encoder: PrismEncoder, folder: Path, description: dict[str, Any]) -> Path:
    """Write encoder.safetensors and encoder.json into ``folder``; returns the path of the weights.

    ``description`` must hold ``preset`` and what is needed to feed the encoder (``patch_mm``, ``n_patches``).
    """
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in encoder.state_dict().items()}
    write_atomic(folder / WEIGHTS_FILE, save(weights))
    write_atomic(folder / DESCRIPTION_FILE, (json.dumps(description, indent=2) + "\n").encode())
    return folder / WEIGHTS_FILE


def load_encoder(path: str | Path) -> PrismEncoder:
    """The encoder of a run folder, or of an ``encoder.safetensors``, on the CPU and in evaluation mode.

    Raises:
        CheckpointError: a file is missing or does not load.
    """
    path = Path(path)
    folder = path if path.is_dir() else path.parent
    try:
        description = json.loads((folder / DESCRIPTION_FILE).read_text())
        encoder = build_encoder(description["preset"])
        encoder.load_state_dict(load_file(folder / WEIGHTS_FILE))
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(
            f"no encoder could be loaded from {folder} ({type(error).__name__}: {error}); needed: "
            f"{WEIGHTS_FILE} and {DESCRIPTION_FILE} as a finished run writes them"
        ) from error
    return encoder.eval()
