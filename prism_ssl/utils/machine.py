"""CPU cores and memory that this process may use (affinity, SLURM, control groups)."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil

_MEMORY_FILES = {"cgroup": "memory.limit_in_bytes", "cgroup2": "memory.max"}
"""By file system type: version 1 and version 2 of control groups."""

_UNITS = {"K": 2**10, "": 2**20, "M": 2**20, "G": 2**30, "T": 2**40}  # SLURM counts in MiB without a unit


def usable_cpus() -> int:
    """CPU cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def started_ticks(process_id: int) -> int | None:
    """Start time of a process, in ticks since boot (man 5 proc); None if there is no such process.

    Unlike psutil's creation time it does not depend on the wall clock, which may be adjusted between two calls.
    """
    try:
        return int(Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[19])
    except OSError:
        return None


def memory_limit_bytes(
    environment: Mapping[str, str] = os.environ, process: Path = Path("/proc/self")
) -> tuple[int, str]:
    """The smallest memory limit of this process, and its source: SLURM, a control group, or the machine."""
    machine = (psutil.virtual_memory().total, "the machine's memory")
    return min([machine, *_slurm_limits(environment), *_cgroup_limits(process)])


def _slurm_limits(environment: Mapping[str, str]) -> Iterator[tuple[int, str]]:
    """The job's memory on this node, by whichever of --mem, --mem-per-cpu and --mem-per-gpu it requested."""
    for variable, things, count in (
        ("SLURM_MEM_PER_NODE", "", 1),
        ("SLURM_MEM_PER_CPU", "CPUs", _slurm_cpus(environment)),
        ("SLURM_MEM_PER_GPU", "GPUs", _first_number(environment.get("SLURM_GPUS_ON_NODE", "1"))),
    ):
        said = re.fullmatch(r"(\d+)([KMGT]?)", environment.get(variable, ""))
        limit = int(said[1]) * _UNITS[said[2]] * count if said else 0
        if said and limit > 0:
            yield limit, f"{variable} {said[0]} x {count} {things}" if things else variable


def _slurm_cpus(environment: Mapping[str, str]) -> int:
    """CPUs of the job on this node; if SLURM does not say, those of a task, else those this process may use."""
    for variable in ("SLURM_CPUS_ON_NODE", "SLURM_JOB_CPUS_PER_NODE", "SLURM_CPUS_PER_TASK"):
        count = _first_number(environment.get(variable, ""))
        if count:
            return count
    return usable_cpus()


def _first_number(text: str) -> int:
    """16 of "16(x2)"; 0 where there is none."""
    found = re.match(r"\d+", text)
    return int(found[0]) if found else 0


def _cgroup_limits(process: Path) -> Iterator[tuple[int, str]]:
    """The limits of this process's control group and of every one above it, of version 1 and version 2.

    No limit reads "max" (version 2) or close to 2^63 (version 1).
    """
    for file in _cgroup_limit_files(process):
        try:
            text = file.read_text().strip()
        except OSError:  # the root group of version 2 has no such file
            continue
        if text.isdigit():
            yield int(text), f"cgroup {file}"


def _cgroup_limit_files(process: Path) -> Iterator[Path]:
    groups = dict(_groups(process))
    for kind, root, mounted_at in _cgroup_mounts(process):
        group = Path(groups.get(kind, "/"))
        # In a container the mount shows a part of the hierarchy only, and the group may be named from its real root.
        below = group.relative_to(root) if group.is_relative_to(root) else Path()
        folder = mounted_at / below
        for each in (folder, *folder.parents):
            if each.is_relative_to(mounted_at):
                yield each / _MEMORY_FILES[kind]


def _groups(process: Path) -> Iterator[tuple[str, str]]:
    """The process's groups that can limit memory: lines such as ``4:memory:/slurm/job_1`` and ``0::/user.slice``."""
    for line in _lines(process / "cgroup"):
        number, controllers, group = line.split(":", 2)
        if "memory" in controllers.split(","):
            yield "cgroup", group
        elif (number, controllers) == ("0", ""):
            yield "cgroup2", group


def _cgroup_mounts(process: Path) -> Iterator[tuple[str, Path, Path]]:
    """Type, root within the hierarchy, and place of every mounted hierarchy that can limit memory (man 5 proc)."""
    for line in _lines(process / "mountinfo"):
        mount, _, system = line.partition(" - ")
        kind, _, options = system.split(" ", 2)
        if kind == "cgroup2" or (kind == "cgroup" and "memory" in options.split(",")):
            root, mounted_at = mount.split(" ")[3:5]
            yield kind, Path(root), Path(mounted_at)


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.is_file() else []
