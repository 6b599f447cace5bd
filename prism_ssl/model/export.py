"""Export and load the encoder: weights as safetensors, its construction as JSON beside them."""

from __future__ import annotations

import copy
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from prism_ssl.contracts import PATCH_PX
from prism_ssl.errors import CheckpointError
from prism_ssl.model.backbone import PrismEncoder, build_encoder
from prism_ssl.model.encoder_source import DESCRIPTION_FILE, NEEDED, WEIGHTS_FILE, encoder_folder
from prism_ssl.utils.fs import owned_folder, write_atomic

_ASKED_PRISMS, _ASKED_PATCHES = 2, 4


@dataclass(frozen=True, eq=False)
class ExportedEncoder:
    """The content of encoder.safetensors and of encoder.json; small enough to send to processes."""

    weights: bytes
    description: dict[str, Any]

    @property
    def sha256(self) -> str:
        """Hash of the weights."""
        return hashlib.sha256(self.weights).hexdigest()

    def build(self) -> PrismEncoder:
        """The encoder, on the CPU and in evaluation mode; torch's global generator is left unchanged.

        Raises:
            KeyError, TypeError, ValueError, RuntimeError, SafetensorError: weights and description do not match.
        """
        told = self.description.get("weights_sha256")
        if told is not None and told != self.sha256:
            raise ValueError(f"sha256 of the weights is {self.sha256[:16]}..., {DESCRIPTION_FILE} says {told[:16]}...")
        with torch.random.fork_rng(devices=[]):
            encoder = build_encoder(self.description["preset"], self.description)
        encoder.load_state_dict(load(self.weights))
        return encoder.eval()


def save_encoder(encoder: PrismEncoder, folder: Path, description: dict[str, Any]) -> Path:
    """Write encoder.safetensors and encoder.json into ``folder``; returns the path of the weights.

    ``description`` must hold ``preset`` and what is needed to feed the encoder (``patch_mm``, ``n_patches``);
    ``weights_sha256`` is added to it.
    """
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in encoder.state_dict().items()}
    exported = ExportedEncoder(save(weights), description)
    told = description | {"weights_sha256": exported.sha256}
    write_atomic(folder / WEIGHTS_FILE, exported.weights)
    write_atomic(folder / DESCRIPTION_FILE, (json.dumps(told, indent=2) + "\n").encode())
    return folder / WEIGHTS_FILE


def read_export(source: str | Path) -> tuple[ExportedEncoder, PrismEncoder]:
    """What was exported to ``source`` (see ``encoder_folder``), and the encoder built from it.

    Raises:
        CheckpointError: a file is missing, damaged, or does not load.
        TrackingError: W&B has no such artifact, or does not answer.
    """
    with encoder_folder(source) as folder:
        try:
            description = json.loads((folder / DESCRIPTION_FILE).read_text())
            if not isinstance(description, dict):
                raise TypeError(f"{DESCRIPTION_FILE} holds no description")
            exported = ExportedEncoder((folder / WEIGHTS_FILE).read_bytes(), description)
            return exported, exported.build()
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
            raise CheckpointError(
                f"no encoder could be loaded from {source} ({type(error).__name__}: {error}); {NEEDED}"
            ) from error


def load_encoder(source: str | Path) -> PrismEncoder:
    """The encoder of a run folder, an ``encoder.safetensors``, a W&B artifact ``entity/project/name:alias``, or "demo".

    On the CPU and in evaluation mode; on the CPU its embeddings equal, bit for bit, those of the encoder trained there.

    Raises:
        CheckpointError: a file is missing, damaged, or does not load.
        TrackingError: W&B has no such artifact, or does not answer.
    """
    return read_export(source)[1]


def verify_export(encoder: PrismEncoder, description: dict[str, Any], parent: Path) -> None:
    """Export ``encoder``, load it again, and compare the outputs of both on the CPU, bit for bit.

    Call it before training begins. A folder below ``parent`` holds the files meanwhile.

    Raises:
        CheckpointError: it cannot be written or loaded, or the loaded encoder gives other outputs.
    """
    g = torch.Generator().manual_seed(0)
    patches = torch.rand(_ASKED_PRISMS, _ASKED_PATCHES, PATCH_PX, PATCH_PX, 1, generator=g) * 2 - 1
    positions_mm = 20.0 * torch.randn(_ASKED_PRISMS, _ASKED_PATCHES, 3, generator=g)
    try:
        with owned_folder(parent) as folder:
            save_encoder(encoder, folder, description)
            loaded = load_encoder(folder)
    except (OSError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"the encoder cannot be exported to a folder below {parent} ({type(error).__name__}: {error}); "
            "training would end with weights that nobody can load, so it does not begin"
        ) from error
    with torch.no_grad():
        wanted = copy.deepcopy(encoder).cpu().eval()(patches, positions_mm)
        found = loaded(patches, positions_mm)
    if not torch.equal(wanted, found):
        raise CheckpointError(
            f"an exported and loaded encoder answers differently (by up to {float((wanted - found).abs().max()):.3g}): "
            f"not all of it is in {WEIGHTS_FILE} and {DESCRIPTION_FILE}; training would end with weights that nobody "
            "can load, so it does not begin"
        )
