"""A device that takes its time: memory that it copies from must stay as it is until the host has waited for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


@dataclass
class SlowMark:
    """A mark in the queue of a ``SlowDevice``."""

    device: SlowDevice
    place: int = 0

    def record(self) -> None:
        self.place = len(self.device.copies)

    def synchronize(self) -> None:
        self.device.come_to(self.place)


@dataclass
class SlowDevice(TorchDispatchMode):
    """Within its block, copies that do not block are under way until a mark behind them is waited for.

    ``spoilt`` counts copies whose source was written meanwhile, ``waited`` those for which the host waited at once.
    """

    copies: list[tuple[torch.Tensor, torch.Tensor]] = field(default_factory=list)
    spoilt: int = 0
    waited: int = 0
    _arrived: int = 0

    def __post_init__(self) -> None:
        TorchDispatchMode.__init__(self)

    def mark(self, _: torch.device) -> SlowMark:
        """As ``mark_on``."""
        return SlowMark(self)

    def come_to(self, place: int) -> None:
        """The copies before ``place`` end now; they were right if their source is what it was."""
        for source, then in self.copies[self._arrived : place]:
            self.spoilt += not torch.equal(source, then)
        self._arrived = max(self._arrived, place)

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        name, given = str(func), dict(kwargs or {})
        if name in ("aten.copy_.default", "aten._to_copy.default"):
            source = args[1] if name.startswith("aten.copy_") else args[0]
            if given.get("dtype", source.dtype) != source.dtype:
                pass  # on the device
            elif (len(args) > 2 and args[2]) or given.get("non_blocking"):
                self.copies.append((source, source.clone()))
            else:
                self.waited += 1
        return func(*args, **given)
