"""Floating-point operations of a training step, two for a multiplication with its addition.

A backward pass counts twice its forward pass, and what is computed again counts nothing (Chowdhery et al. 2022, PaLM,
appendix B): so the number says what the model needs and not how it is run.
"""

from __future__ import annotations

from prism_ssl.config.schema import PrismConfig
from prism_ssl.model.backbone import POSITION_FEATURES, EncoderShape, shape_of
from prism_ssl.model.heads import DISTANCE_OUTPUTS


def view_flops(shape: EncoderShape, n_patches: int) -> int:
    """Of one view's forward pass through the encoder."""
    T, D = n_patches + 1, shape.width
    inputs = shape.patch_inputs + (POSITION_FEATURES if shape.position_features else 0)
    embedding = 2 * n_patches * inputs * D
    # Queries, keys, values, output and MLP: 12 D^2 weights; scores and their sum over the values: T x T x D each.
    block = 2 * 12 * T * D**2 + 4 * T**2 * D
    # The last block reads CLS alone: keys and values of all tokens, everything else of one.
    last = 2 * (2 * T + 10) * D**2 + 4 * T * D
    return embedding + (shape.depth - 1) * block + last


def pair_flops(config: PrismConfig) -> int:
    """Of one pair's forward pass through the network."""
    shape = shape_of(config.model.preset, vars(config.model))
    D = shape.width
    outputs = DISTANCE_OUTPUTS[config.model.objective] + 3 + 1 + 1
    pair_heads = 2 * (4 * 3 * D * D + outputs * D)
    projections = 2 * 2 * (D * D + D * config.model.projection_dim)
    return 2 * view_flops(shape, config.data.n_patches) + pair_heads + projections


def step_flops(config: PrismConfig) -> int:
    """Of a training step: forward and backward of ``train.batch_size`` pairs; losses and optimiser count nothing."""
    return 3 * config.train.batch_size * pair_flops(config)
