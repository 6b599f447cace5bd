"""Gather the outputs of all training workers, so that the loss is that of one joint batch; sum the gradients.

Every worker encodes its own pairs. The outputs, a few numbers per pair, are gathered, and every worker computes the
loss of *all* pairs, so that masked means, SupCon's positives and negatives, and the diagnostics cover the joint batch.
The gradient reaches only the worker's own outputs, so the unweighted sum over the workers is the gradient of the joint
batch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator

import torch
import torch.distributed as dist
from torch import Tensor, nn

from prism_ssl.contracts import PairFacts, PrismOutput
from prism_ssl.train.distributed.ranks import Ranks, reaching_others

_BUCKET_NUMBERS = 32 * 2**20  # 128 MiB of float32: few messages, and no second copy of all gradients


def joint_batch(output: PrismOutput, facts: PairFacts, ranks: Ranks) -> tuple[PrismOutput, PairFacts]:
    """The outputs and facts of all workers' pairs, in the order of the workers; with one worker, unchanged."""
    if ranks.size == 1:
        return output, facts
    names = [field.name for field in dataclasses.fields(PrismOutput)]
    answers = _gathered([getattr(output, name) for name in names], ranks)
    truth: dict[str, Tensor] = {}
    for of_one_type in _by_type(facts):
        columns = [getattr(facts, name) for name in of_one_type]
        truth |= zip(of_one_type, _gathered(columns, ranks), strict=True)
    return PrismOutput(**dict(zip(names, answers, strict=True))), PairFacts(**truth)


def _by_type(facts: PairFacts) -> list[list[str]]:
    """Names of the fields, those of one type together."""
    names: dict[torch.dtype, list[str]] = {}
    for field in dataclasses.fields(PairFacts):
        names.setdefault(getattr(facts, field.name).dtype, []).append(field.name)
    return list(names.values())


def sum_gradients(parameters: Iterable[nn.Parameter], ranks: Ranks) -> None:
    """Replace every gradient by its sum over the workers; all workers must have gradients of the same parameters."""
    if ranks.size == 1:
        return
    for bucket in _buckets([each.grad for each in parameters if each.grad is not None]):
        joint = torch.cat([gradient.flatten() for gradient in bucket])
        with reaching_others():
            dist.all_reduce(joint)
        for gradient, part in zip(bucket, joint.split([each.numel() for each in bucket]), strict=True):
            gradient.copy_(part.view_as(gradient))


def _gathered(columns: list[Tensor], ranks: Ranks) -> list[Tensor]:
    """Columns [B / workers, ...] of equal type -> [B, ...], in one message; only the own rows get a gradient."""
    mine = torch.cat([column.detach().reshape(len(column), -1) for column in columns], dim=1)
    rows = [torch.empty_like(mine) for _ in range(ranks.size)]
    with reaching_others():
        dist.all_gather(rows, mine)
    widths = [column[0].numel() for column in columns]
    parts = [[part.reshape(c.shape) for part, c in zip(row.split(widths, 1), columns, strict=True)] for row in rows]
    # Column by column: an output that enters no loss must get no gradient, not a gradient of zeros.
    parts[ranks.rank] = columns
    return [torch.cat(column) for column in zip(*parts, strict=True)]


def _buckets(gradients: list[Tensor]) -> Iterator[list[Tensor]]:
    bucket: list[Tensor] = []
    for gradient in gradients:
        if bucket and sum(each.numel() for each in bucket) + gradient.numel() > _BUCKET_NUMBERS:
            yield bucket
            bucket = []
        bucket.append(gradient)
    if bucket:
        yield bucket
