"""PRISM SSL: self-supervised pretraining on a hospital's own CT and MR archive."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prism_ssl.model.backbone import PrismEncoder


def load_encoder(path: str | Path) -> PrismEncoder:
    """The trained encoder of a run folder or of an ``encoder.safetensors``; see ``prism_ssl.model.export``."""
    from prism_ssl.model.export import load_encoder as load  # torch only where it is asked for

    return load(path)
