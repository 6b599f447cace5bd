"""Encoders to embed with (trained, random weights, statistics of the pixels), and the settings of their views."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
from safetensors.torch import save
from torch import nn

from prism_ssl.config.defaults import config_from_dict
from prism_ssl.config.schema import DataConfig, PrismConfig
from prism_ssl.errors import CheckpointError
from prism_ssl.eval.pixel_statistics import LAYOUT, QUANTILES, PixelStatistics
from prism_ssl.model.backbone import PRESETS, build_encoder
from prism_ssl.model.encoder_source import DESCRIPTION_FILE
from prism_ssl.model.export import ExportedEncoder
from prism_ssl.utils.hashing import content_hash

Weights = Literal["trained", "random", "pixels"]


class EncoderFiles(Protocol):
    """What an encoder is built from, in any process; ``ExportedEncoder`` is one."""

    @property
    def description(self) -> dict[str, Any]:
        """Contents of encoder.json."""
        ...

    @property
    def sha256(self) -> str:
        """Hash of what determines the embeddings."""
        ...

    def build(self) -> nn.Module:
        """The encoder, on the CPU and in evaluation mode."""
        ...


@dataclass(frozen=True, eq=False)
class PixelFiles:
    """``PixelStatistics`` for the views that an encoder was trained on."""

    description: dict[str, Any] = field(default_factory=dict)

    @property
    def sha256(self) -> str:
        """Hash of what determines the statistics."""
        return content_hash(["pixel statistics", QUANTILES, LAYOUT]) * 4

    def build(self) -> PixelStatistics:
        """The module."""
        return PixelStatistics().eval()


def with_weights(exported: ExportedEncoder, weights: Weights, seed: int) -> tuple[EncoderFiles, int]:
    """What embeds in place of ``exported``, for the same views, and the width D of its embedding."""
    preset = exported.description["preset"]
    if weights == "pixels":
        return PixelFiles(exported.description), QUANTILES + LAYOUT
    if weights == "random":
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # of the CPU alone
            drawn = build_encoder(preset, exported.description).state_dict()
            fresh = save({name: tensor.contiguous() for name, tensor in drawn.items()})
        exported = ExportedEncoder(fresh, exported.description | {"weights_sha256": None})
    return exported, PRESETS[preset].width


def embed_config(exported: EncoderFiles, data: DataConfig | None = None) -> PrismConfig:
    """Settings for the catalogue of ``data``, if any, with the views, limits and ``train.precision`` of the encoder's
    training.

    Raises:
        CheckpointError, ConfigError: the description is of another version.
    """
    try:
        told, trained = exported.description, exported.description["config"]
        patches = {"n_patches": told["n_patches"], "patch_mm": told["patch_mm"]}
        limits = {name: value for name, value in trained["preflight"].items() if name != "concurrency"}
        precision = {"precision": trained["train"]["precision"]}
        # Views and losses are checked against each other. Nothing is hidden where views are embedded.
        kept = {"view": trained["view"], "loss": trained["loss"] | {"w_masked": 0.0}}
        config = config_from_dict({**kept, "preflight": limits, "train": precision})
    except KeyError as error:
        raise CheckpointError(f"{DESCRIPTION_FILE} lacks {error}, which is needed to feed the encoder") from error
    return dataclasses.replace(config, data=dataclasses.replace(data or config.data, **patches))
