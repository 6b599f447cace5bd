"""CUDA's allocator is told how to grow before it begins, and a user's own words to it are kept."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

HOOK = """
import torch
from prism_ssl.train.distributed.devices import GrowingSegments
GrowingSegments().after_init_train_context()
print(torch._C._accelerator_getAllocatorSettings())
"""
NAMES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")


@pytest.mark.parametrize("name", [None, *NAMES])
def test_segments_grow_unless_the_allocator_has_other_orders(name: str | None) -> None:
    given = {name: "max_split_size_mb:512"} if name else {}
    environment = {key: value for key, value in os.environ.items() if key not in NAMES} | given
    told = subprocess.run([sys.executable, "-c", HOOK], env=environment, capture_output=True, text=True, check=True)
    assert told.stdout.strip() == given.get(str(name), "expandable_segments:True")
