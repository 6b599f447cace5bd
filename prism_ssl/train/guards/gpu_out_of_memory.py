"""Error text for a full GPU: the settings in use, the memory it has, and which settings to change."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from prism_ssl.config.schema import PrismConfig
from prism_ssl.errors import GpuOutOfMemory

GIB = 2**30


@contextmanager
def out_of_memory_named(config: PrismConfig, what: str) -> Iterator[None]:
    """Turn torch's out-of-memory error in the block into ``GpuOutOfMemory``; ``what`` is such as ``"step 12"``."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        train, data = config.train, config.data
        raise GpuOutOfMemory(
            f"the GPU's memory was full at {what}: {str(error).splitlines()[0]} {_in_use()}Asked for: train.batch_size "
            f"{train.batch_size} pairs of 2 x {data.n_patches} patches (data.n_patches), model.preset "
            f"{config.model.preset}, train.precision {train.precision}, data.extract_on {data.extract_on}. "
            f"{_for_this_run(config)}{_for_another(config)}, in a run of its own"
        ) from error


def _in_use() -> str:
    if not torch.cuda.is_available():
        return ""
    total = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
    return (
        f"This run had {torch.cuda.memory_allocated() / GIB:.1f} GiB of {total / GIB:.1f} GiB allocated (at most "
        f"{torch.cuda.max_memory_allocated() / GIB:.1f}) and {torch.cuda.memory_reserved() / GIB:.1f} GiB reserved. "
    )


def _for_this_run(config: PrismConfig) -> str:
    train, options = config.train, []
    if not config.model.activation_checkpointing:
        options.append("model.activation_checkpointing to True")
    if train.batch_size // train.num_workers % (2 * train.grad_accumulation) == 0:
        options.append(f"train.grad_accumulation to {2 * train.grad_accumulation}")
    set_one = f"Set {' or '.join(options)} and give" if options else "Give"
    return f"{set_one} the same command again: it resumes at the checkpoint just written. "


def _for_another(config: PrismConfig) -> str:
    pairs, patches = config.train.batch_size // 2, config.data.n_patches // 2
    options = [
        f"Lower train.batch_size to {pairs} or data.n_patches to {patches} (activations grow with both)",
        "or take a smaller model.preset",
    ]
    if config.train.precision != "bf16":
        options.append("or train.precision bf16")
    if config.data.extract_on == "cuda":
        options.append("or data.extract_on cpu, which keeps the volumes in host memory")
    return ", ".join(options)
