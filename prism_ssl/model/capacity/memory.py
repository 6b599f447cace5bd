"""GPU memory of a training step, estimated from the settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch

from prism_ssl.config.schema import PrismConfig
from prism_ssl.contracts import PATCH_PX
from prism_ssl.model.backbone import PRESETS
from prism_ssl.model.masked_patches import DECODER_DEPTH, seen_patches
from prism_ssl.model.network import block_matrices, build_network

KEPT_BYTES: Final = {"fp32": 68, "bf16": 40}
"""Bytes that a block keeps for its backward pass, for every token and channel; a test counts them. bf16: autocast, with
norms in float32 and attention in bfloat16, as on CUDA. What torch.compile keeps was not measured: on a CPU its
partitioner keeps as much."""
INPUT_BYTES: Final = {"fp32": 4, "bf16": 2}
"""The same with activation checkpointing: the block's input alone."""
_OF_A_PARAMETER: Final = 16
"""Value, gradient and AdamW's two moments, float32."""
_MUON_SAVES: Final = 4
"""Muon keeps one moment."""
_CONTEXT_BYTES: Final = 10**9
"""CUDA's context, cuBLAS' workspaces and kernels: an assumption, not measured."""


@dataclass(frozen=True)
class GpuMemory:
    """Bytes at the peak of a step; ``volumes`` with ``data.extract_on: cuda`` only, see ``MemoryPlan.mirror_bytes``."""

    weights: int
    activations: int
    batch: int
    context: int = _CONTEXT_BYTES
    volumes: int = 0

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.activations + self.batch + self.context + self.volumes


def gpu_memory(config: PrismConfig, volume_bytes: int = 0) -> GpuMemory:
    """The estimate for one training worker; ``volume_bytes`` lie on the GPU beside the model."""
    model, train = config.model, config.train
    with torch.device("meta"):
        network = build_network(model)
    count = sum(weight.numel() for weight in network.parameters())
    heads = sum(weight.numel() for weight in network.heads.parameters())
    of_muon = 0 if train.muon_lr is None else sum(weight.numel() for weight in block_matrices(network))
    pairs = train.batch_size // train.num_workers
    cast = 2 * count if train.precision == "bf16" else 0  # autocast's bfloat16 weights, kept for the backward pass
    # The record keeps a copy of the heads. A batch lies there as int16 and float32, the one before until it is done.
    pixels = pairs * 2 * config.data.n_patches * PATCH_PX**2
    return GpuMemory(
        weights=_OF_A_PARAMETER * count - _MUON_SAVES * of_muon + cast + 4 * heads,
        activations=_activations(config, pairs // train.grad_accumulation),
        batch=2 * pixels * (2 + 4),
        volumes=volume_bytes,
    )


def _activations(config: PrismConfig, pairs: int) -> int:
    shape, precision = PRESETS[config.model.preset], config.train.precision
    seen = seen_patches(config.data.n_patches, config.model.masked_share)
    channels, kept = pairs * 2 * (seen + 1) * shape.width, KEPT_BYTES[precision]
    if config.model.masked_share:  # all tokens of the last block are read, and the decoder has all patches
        decoder = pairs * 2 * (config.data.n_patches + 1) * (shape.width // 2) * DECODER_DEPTH * kept
        each = INPUT_BYTES[precision] if config.model.activation_checkpointing else kept
        return channels * (shape.depth * each + kept * config.model.activation_checkpointing) + decoder
    if config.model.activation_checkpointing:
        return channels * (shape.depth * INPUT_BYTES[precision] + kept)  # and the block that is computed again
    # The last block keeps its input, keys and values; everything else is that of one token.
    return channels * ((shape.depth - 1) * kept + 4 * INPUT_BYTES[precision])
