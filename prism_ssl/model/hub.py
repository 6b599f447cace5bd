"""The encoder as a model of the Hugging Face Hub: a folder of config.json and model.safetensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn

from prism_ssl.model.backbone import build_encoder
from prism_ssl.model.encoder_source import CARD_FILE, encoder_folder
from prism_ssl.model.export import read_export
from prism_ssl.utils.fs import write_atomic


class HubEncoder(nn.Module, PyTorchModelHubMixin, library_name="prism-ssl", tags=["medical", "ct", "mri"]):
    """``PrismEncoder`` that ``HubEncoder.from_pretrained(FOLDER)`` loads, without a network where FOLDER is local.

    Args:
        preset: of the encoder.
        description: what else encoder.json says: how to feed the encoder.
    """

    def __init__(self, preset: Any, description: dict[str, Any] | None = None) -> None:
        super().__init__()
        self.description = description or {}
        with torch.random.fork_rng(devices=[]):
            self.encoder = build_encoder(preset, self.description)

    def forward(self, patches: Tensor, positions_mm: Tensor) -> Tensor:
        """Patches [B, N, 16, 16, 1] in [-1, 1] and positions [B, N, 3] in mm -> embeddings [B, D]."""
        embedding: Tensor = self.encoder(patches, positions_mm)
        return embedding


def save_hub_folder(source: str | Path, folder: Path) -> Path:
    """Write the encoder of ``source`` (see ``encoder_folder``) as a folder that can be pushed, and return it.

    It holds config.json, model.safetensors and the model card; nothing is uploaded. Raises as ``read_export``.
    """
    exported, encoder = read_export(source)
    told = {name: value for name, value in exported.description.items() if name != "preset"}
    model = HubEncoder(exported.description["preset"], told).eval()
    model.encoder = encoder
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    with encoder_folder(source) as files:
        if (files / CARD_FILE).is_file():
            write_atomic(folder / "README.md", _FRONT.encode() + (files / CARD_FILE).read_bytes())
    return folder


_FRONT = "---\nlibrary_name: prism-ssl\ntags:\n- medical\n- ct\n- mri\n---\n\n"
