from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from prism_ssl.utils.machine import memory_limit_bytes

MIB = 2**20
MACHINE = psutil.virtual_memory().total


def limit(tmp_path: Path, **environment: str) -> tuple[int, str]:
    """What counts in this environment, for a process in no control group."""
    return memory_limit_bytes(environment, tmp_path / "no-process")


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"SLURM_MEM_PER_NODE": "64"}, (64 * MIB, "SLURM_MEM_PER_NODE")),  # SLURM counts in MiB
        ({"SLURM_MEM_PER_NODE": str(MACHINE // MIB + 1)}, (MACHINE, "the machine's memory")),
        (
            {"SLURM_MEM_PER_CPU": "32", "SLURM_CPUS_ON_NODE": "2", "SLURM_CPUS_PER_TASK": "1"},
            (64 * MIB, "SLURM_MEM_PER_CPU 32 x 2 CPUs"),
        ),
        (
            {"SLURM_MEM_PER_CPU": "32", "SLURM_JOB_CPUS_PER_NODE": "3(x2),1"},
            (96 * MIB, "SLURM_MEM_PER_CPU 32 x 3 CPUs"),
        ),
        ({"SLURM_MEM_PER_CPU": "32", "SLURM_CPUS_PER_TASK": "4"}, (128 * MIB, "SLURM_MEM_PER_CPU 32 x 4 CPUs")),
        ({"SLURM_MEM_PER_GPU": "1G", "SLURM_GPUS_ON_NODE": "2"}, (2048 * MIB, "SLURM_MEM_PER_GPU 1G x 2 GPUs")),
        (
            {"SLURM_MEM_PER_NODE": "64", "SLURM_MEM_PER_CPU": "16", "SLURM_CPUS_ON_NODE": "2"},
            (32 * MIB, "SLURM_MEM_PER_CPU 16 x 2 CPUs"),
        ),
        ({"SLURM_MEM_PER_NODE": ""}, (MACHINE, "the machine's memory")),
        ({"SLURM_MEM_PER_NODE": "0", "SLURM_MEM_PER_CPU": "0"}, (MACHINE, "the machine's memory")),
        ({"SLURM_MEM_PER_NODE": "all of it"}, (MACHINE, "the machine's memory")),
    ],
)
def test_the_least_of_what_slurm_gave_counts_and_is_named(
    tmp_path: Path, environment: dict[str, str], expected: tuple[int, str]
) -> None:
    assert limit(tmp_path, **environment) == expected


def process_in_groups(tmp_path: Path, group: str, root: str, limits: dict[str, str], version: int) -> Path:
    """A /proc/PID of a process in ``group``; ``root`` of the hierarchy is mounted, with limits by folder below it."""
    mount, process = tmp_path / "mount", tmp_path / "process"
    file = {1: "memory.limit_in_bytes", 2: "memory.max"}[version]
    for folder, text in limits.items():
        (mount / folder).mkdir(parents=True, exist_ok=True)
        (mount / folder / file).write_text(f"{text}\n")
    process.mkdir()
    own, elsewhere = {1: (f"4:memory:{group}", "0::/"), 2: (f"0::{group}", "4:memory:/other")}[version]
    (process / "cgroup").write_text(f"9:name=systemd:/\n{own}\n1:cpu,cpuacct:/x\n{elsewhere}\n")
    system = {1: "cgroup cgroup rw,memory", 2: "cgroup2 cgroup2 rw,nsdelegate"}[version]
    (process / "mountinfo").write_text(
        "21 1 8:1 / / rw - ext4 /dev/sda1 rw\n"
        f"33 24 0:28 /x {tmp_path}/cpu rw,nosuid - cgroup cgroup rw,cpu,cpuacct\n"
        f"34 24 0:29 {root} {mount} rw,nosuid shared:9 - {system}\n"
    )
    return process


NO_LIMIT = {1: str(2**63 - 4096), 2: "max"}


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("tightest", ["slurm/job_7/step_0", "slurm/job_7", "slurm", ""])
def test_a_limit_anywhere_up_the_groups_path_counts(tmp_path: Path, version: int, tightest: str) -> None:
    limits = dict.fromkeys(["slurm/job_7/step_0", "slurm/job_7", "slurm", ""], NO_LIMIT[version])
    process = process_in_groups(tmp_path, "/slurm/job_7/step_0", "/", limits | {tightest: str(64 * MIB)}, version)
    found, source = memory_limit_bytes({}, process)
    assert found == 64 * MIB
    assert source.startswith(f"cgroup {tmp_path / 'mount' / tightest}")


@pytest.mark.parametrize("version", [1, 2])
def test_without_a_limit_in_any_group_the_machine_counts(tmp_path: Path, version: int) -> None:
    process = process_in_groups(tmp_path, "/slurm", "/", {"slurm": NO_LIMIT[version]}, version)
    assert memory_limit_bytes({}, process) == (MACHINE, "the machine's memory")


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("group", ["/docker/abc", "/", "/../elsewhere"])
def test_in_a_container_the_mounted_part_of_the_hierarchy_counts(tmp_path: Path, version: int, group: str) -> None:
    process = process_in_groups(tmp_path, group, "/docker/abc", {"": str(64 * MIB)}, version)
    assert memory_limit_bytes({}, process)[0] == 64 * MIB


def test_the_tighter_of_job_and_group_counts(tmp_path: Path) -> None:
    process = process_in_groups(tmp_path, "/job", "/", {"job": str(64 * MIB)}, version=1)
    assert memory_limit_bytes({"SLURM_MEM_PER_NODE": "32"}, process) == (32 * MIB, "SLURM_MEM_PER_NODE")
    assert memory_limit_bytes({"SLURM_MEM_PER_NODE": "128"}, process)[0] == 64 * MIB
