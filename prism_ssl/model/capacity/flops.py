"""Floating-point operations of a training step, two for a multiplication with its addition.

A backward pass counts twice its forward pass, and what is computed again counts nothing (Chowdhery et al. 2022, PaLM,
appendix B): so the number says what the model needs and not how it is run.
"""

from __future__ import annotations

from prism_ssl.config.schema import PrismConfig
from prism_ssl.model.backbone import PRESETS, EncoderShape, patch_inputs
from prism_ssl.model.heads import DISTANCE_OUTPUTS


def view_flops(shape: EncoderShape, n_patches: int, normalize_patches: bool = False) -> int:
    """Of one view's forward pass through the encoder."""
    T, D = n_patches + 1, shape.width
    embedding = 2 * n_patches * patch_inputs(normalize_patches) * D
    # Queries, keys, values, output and MLP: 12 D^2 weights; scores and their sum over the values: T x T x D each.
    block = 2 * 12 * T * D**2 + 4 * T**2 * D
    # The last block reads CLS alone: keys and values of all tokens, everything else of one.
    last = 2 * (2 * T + 10) * D**2 + 4 * T * D
    return embedding + (shape.depth - 1) * block + last


def pair_flops(config: PrismConfig) -> int:
    """Of one pair's forward pass through the network."""
    shape, D = PRESETS[config.model.preset], PRESETS[config.model.preset].width
    outputs = DISTANCE_OUTPUTS[config.model.objective] + 3 + 1 + 1
    pair_heads = 2 * (4 * 3 * D * D + outputs * D)
    projections = 2 * 2 * (D * D + D * config.model.projection_dim)
    return 2 * view_flops(shape, config.data.n_patches, config.model.normalize_patches) + pair_heads + projections


def step_flops(config: PrismConfig) -> int:
    """Of a training step: forward and backward of ``train.batch_size`` pairs; losses and optimiser count nothing."""
    return 3 * config.train.batch_size * pair_flops(config)
