"""Compile functions with numba for this processor, and cache them on disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numba
from llvmlite import binding as llvm

from prism_ssl.utils.fs import kept_root, private_folder
from prism_ssl.utils.hashing import short_id

_Function = TypeVar("_Function", bound=Callable[..., Any])


def _prepare_compiler() -> bool:
    """Settings that numba reads before it compiles; True when 16 lanes can be loaded by one instruction.

    Compiled code is cached in ``kept_root`` for all jobs of a user, unless NUMBA_CACHE_DIR is set. Each version of this
    package's source has its own cache, since numba fails on an index that names a type which the code no longer has.
    """
    settings: Any = numba.config
    if not settings.CACHE_DIR:
        texts = "".join(path.read_text() for path in sorted(Path(__file__).parent.glob("*.py")))
        settings.CACHE_DIR = str(private_folder(kept_root() / f"numba-{short_id(texts)}"))
    features = settings.CPU_FEATURES or llvm.get_host_cpu_features().flatten()
    if "+avx512f" not in features.split(","):
        return False
    settings.CPU_FEATURES = f"{features},-prefer-256-bit"  # whole vectors: 0.92x the time on a Xeon of 2023
    return not llvm.get_host_cpu_name().startswith("znver")  # on AMD Zen, single loads take 0.88x the time of a gather


GATHERS = _prepare_compiler()
"""Whether 16 lanes are loaded by one instruction."""


def compiled(function: _Function) -> _Function:
    """Compile ``function`` with numba: cached, without the GIL, for arrays that the caller keeps alive."""
    # contract: fused multiply-add; nsz: minus zero is zero; NaN and infinity stay defined.
    # _nrt=False: counting references to the arrays, atomically and for each band, takes as long as the sampling.
    njit: Any = numba.njit
    options = {"cache": True, "nogil": True, "error_model": "numpy", "fastmath": {"contract", "nsz"}, "_nrt": False}
    ready: _Function = njit(**options)(function)
    return ready
