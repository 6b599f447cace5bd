"""Floating-point operations of a training step, two for a multiplication with its addition.

A backward pass counts twice its forward pass, and what is computed again counts nothing (Chowdhery et al. 2022, PaLM,
appendix B): so the number says what the model needs and not how it is run.
"""

from __future__ import annotations

from prism_ssl.config.schema import PrismConfig
from prism_ssl.contracts import PATCH_PX
from prism_ssl.model.backbone import POSITION_FEATURES, EncoderShape, shape_of
from prism_ssl.model.heads import DISTANCE_OUTPUTS
from prism_ssl.model.masked_patches import DECODER_DEPTH, seen_patches


def view_flops(shape: EncoderShape, n_patches: int) -> int:
    """Of one view's forward pass through the encoder, which reads its CLS token."""
    T, D = n_patches + 1, shape.width
    # The last block computes keys and values of all tokens, everything else of one.
    last = 2 * (2 * T + 10) * D**2 + 4 * T * D
    return _embedding(shape, n_patches) + (shape.depth - 1) * _block(T, D) + last


def masked_view_flops(shape: EncoderShape, n_patches: int, masked_share: float) -> int:
    """The same where patches are hidden: the encoder's tokens of the seen ones, and the decoder of all."""
    seen, D, narrow = seen_patches(n_patches, masked_share), shape.width, shape.width // 2
    encoder = _embedding(shape, seen) + shape.depth * _block(seen + 1, D)
    pixels = 2 * (n_patches - seen) * narrow * PATCH_PX**2
    return encoder + 2 * (seen + 1) * D * narrow + DECODER_DEPTH * _block(n_patches + 1, narrow) + pixels


def _embedding(shape: EncoderShape, n_patches: int) -> int:
    inputs = shape.patch_inputs + (POSITION_FEATURES if shape.position_features else 0)
    return 2 * n_patches * inputs * shape.width


def _block(T: int, D: int) -> int:
    # Queries, keys, values, output and MLP: 12 D^2 weights; scores and their sum over the values: T x T x D each.
    return 2 * 12 * T * D**2 + 4 * T**2 * D


def pair_flops(config: PrismConfig) -> int:
    """Of one pair's forward pass through the network in training."""
    shape = shape_of(config.model.preset, vars(config.model))
    D = shape.width
    outputs = DISTANCE_OUTPUTS[config.model.objective] + 3 + 1 + 1
    pair_heads = 2 * (4 * 3 * D * D + outputs * D)
    projections = 2 * 2 * (D * D + D * config.model.projection_dim)
    n_patches, masked_share = config.data.n_patches, config.model.masked_share
    view = masked_view_flops(shape, n_patches, masked_share) if masked_share else view_flops(shape, n_patches)
    return 2 * view + pair_heads + projections


def step_flops(config: PrismConfig) -> int:
    """Of a training step: forward and backward of ``train.batch_size`` pairs; losses and optimiser count nothing."""
    return 3 * config.train.batch_size * pair_flops(config)
