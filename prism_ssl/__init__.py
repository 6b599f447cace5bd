"""PRISM SSL: self-supervised pretraining on a hospital's own CT and MR archive."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prism_ssl.model.backbone import PrismEncoder


def load_encoder(path_or_artifact: str | Path) -> PrismEncoder:
    """The trained encoder of a run folder, of an ``encoder.safetensors``, of the W&B artifact that a run uploaded
    (``"entity/project/encoder-<run>:latest"``), or ``"demo"``, which ships with the package; on the CPU and in
    evaluation mode. See ``prism_ssl.model.export``."""
    from prism_ssl.model.export import load_encoder as load  # imports torch only when called

    return load(path_or_artifact)
