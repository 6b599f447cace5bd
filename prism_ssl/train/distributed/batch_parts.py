"""Encode a batch in parts that fit the device, with the loss and the gradient of the whole batch.

Gradient caching (Gao et al. 2021, "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup"): all parts
are encoded without a graph, the loss is that of the joint outputs, and each part is then encoded once more for its
gradient. So SupCon compares all 2B views, and means over masked pairs, chance levels and diagnostics cover the whole
batch, as with one part. Adding up the losses of the parts would instead show SupCon the 2B / parts views of one part.
The network has neither dropout nor statistics of its batch, so encoding twice gives the same outputs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from prism_ssl.contracts import PrismBatch, PrismOutput

Encode = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], PrismOutput]
"""A network in its precision: patches and positions of views a, then of views b, and the series of the pairs."""

_NAMES = [field.name for field in dataclasses.fields(PrismOutput)]


def encoded_in_parts(encode: Encode, batch: PrismBatch, parts: int) -> PrismOutput:
    """The outputs for B pairs, as leaves: backward fills their ``grad``, which ``gradients_of_parts`` passes on."""
    with torch.no_grad():
        outputs = [encode(*views) for views in _views(batch, parts)]
    columns = (torch.cat([getattr(output, name) for output in outputs]) for name in _NAMES)
    return PrismOutput(*(column.requires_grad_() for column in columns))


def gradients_of_parts(encode: Encode, batch: PrismBatch, parts: int, whole: PrismOutput) -> None:
    """Add to the parameters' gradients those that follow from the gradients of the outputs ``whole``."""
    # An output that is in no loss has none: its head then gets no gradient, as with one part.
    used = [name for name in _NAMES if getattr(whole, name).grad is not None]
    wanted = zip(*(getattr(whole, name).grad.chunk(parts) for name in used), strict=True)
    for views, gradients in zip(_views(batch, parts), wanted, strict=True):
        output = encode(*views)
        torch.autograd.backward([getattr(output, name) for name in used], list(gradients))


def _views(batch: PrismBatch, parts: int) -> Iterator[tuple[Tensor, ...]]:
    columns = (batch.patches_a, batch.positions_a, batch.patches_b, batch.positions_b, batch.series_label)
    return zip(*(column.chunk(parts) for column in columns), strict=True)
