"""Settings of the network: the encoder, what it is given, and what its heads predict."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from prism_ssl.config.checks import positive, require

Objective = Literal["regression", "classification"]
Preset = Literal["tiny", "small", "base", "large"]
InitParts = Literal["encoder", "everything"]

ENCODER_INPUTS = ("normalize_patches", "position_features")
"""Settings of ``ModelConfig``, and fields of encoder.json, that say what of a patch the encoder is given."""


@dataclass(frozen=True)
class ModelConfig:
    """Encoder preset and what the heads predict."""

    preset: Preset = "large"
    """Encoder size: tiny (laptop), small, base, large (ViT-L: 1024 wide, 24 deep, 16 heads)."""
    objective: Objective = "regression"
    """Whether the pair heads regress the difference or classify its sign, per axis."""
    projection_dim: int = 128
    """Width of the SupCon projection (P)."""
    compile: bool = True
    """torch.compile on CUDA; never on CPU."""
    normalize_patches: bool = False
    """Give the encoder each patch with mean 0 and standard deviation 1, and these two numbers beside it: tissue then
    looks more alike in two modalities."""
    position_features: bool = False
    """Add a linear map of each patch's coordinates, and of their sines and cosines, to its token. Without it only
    attention knows where a patch lies."""
    masked_share: float = 0.0
    """Share of each view's patches that is hidden from the encoder in training and predicted by a small decoder, as in
    a masked autoencoder (loss.w_masked is the weight); 0: none."""
    activation_checkpointing: bool = False
    """Compute each block's activations again in the backward pass instead of keeping them: less memory, more time."""
    init_from: str | None = None
    """Start from the weights of an earlier run of the same preset: its folder, a file of weights in it, or
    wandb:ENTITY/PROJECT/NAME:ALIAS. Read at step 0 only; a resume goes on from the run's own checkpoint."""
    init_parts: InitParts = "encoder"
    """What init_from gives: the encoder, or everything (the heads too, from last.ckpt). The optimiser begins anew."""

    def __post_init__(self) -> None:
        positive("model", self, "projection_dim")
        require(0 <= self.masked_share < 1, "model.masked_share", self.masked_share, "0 or more, and below 1")
