"""Finds the operations of a block that would make the host wait for a GPU, by their names and on a CPU."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

_WAITING = {
    "aten::_local_scalar_dense": "item(), tolist(), float(), int(), bool() or an if",
    "aten::nonzero": "nonzero(), or an index of bools",
    "aten::masked_select": "masked_select()",
    "aten::equal": "torch.equal()",
    "aten::_unique2": "unique()",
    "aten::repeat_interleave.Tensor": "repeat_interleave() by a tensor",
    "aten::lift_fresh": "a tensor of numbers made on the host",
}
"""Operations whose result, or whose size, the host must know; and, last, a copy from memory that is not pinned."""


class HostSyncs(TorchDispatchMode):
    """Records in ``found`` what would wait, a line each."""

    def __init__(self) -> None:
        TorchDispatchMode.__init__(self)
        self.found: list[str] = []

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        name = str(getattr(func, "_schema", func)).partition("(")[0]
        why = _WAITING.get(name) or _WAITING.get(name.partition(".")[0])
        if name.startswith(("aten::index.", "aten::index_put")) and _by_bools(args[1]):
            why = "an index of bools"
        if why:
            self.found.append(f"{name}: {why}")
        return func(*args, **(kwargs or {}))


def _by_bools(indices: Sequence[Any]) -> bool:
    return any(isinstance(index, torch.Tensor) and index.dtype == torch.bool for index in indices)
