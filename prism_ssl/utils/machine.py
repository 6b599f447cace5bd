"""What this process may use of the machine it is on."""

from __future__ import annotations

import os
from pathlib import Path

import psutil


def usable_cpus() -> int:
    """CPU cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_limit_bytes() -> tuple[int, str]:
    """The memory this process may use, and who says so: SLURM, a cgroup, or the machine."""
    limits = [(psutil.virtual_memory().total, "the machine's memory")]
    slurm = os.environ.get("SLURM_MEM_PER_NODE", "")
    if slurm.isdigit() and int(slurm) > 0:
        limits.append((int(slurm) * 2**20, "SLURM_MEM_PER_NODE"))
    for path in _cgroup_limit_files():
        text = path.read_text().strip() if path.is_file() else ""
        if text.isdigit():
            limits.append((int(text), f"cgroup {path.name}"))
    return min(limits)


def _cgroup_limit_files() -> list[Path]:
    """memory.max of this process's cgroup and its ancestors (v2), and the v1 file."""
    root = Path("/sys/fs/cgroup")
    files = [root / "memory/memory.limit_in_bytes"]
    own = Path("/proc/self/cgroup")
    for line in own.read_text().splitlines() if own.is_file() else ():
        if line.startswith("0::"):
            group = root / line[3:].lstrip("/")
            files += [folder / "memory.max" for folder in (group, *group.parents) if folder.is_relative_to(root)]
    return files
