"""Seconds and memory to list, group and check 10^5 small files of a folder that has no table.

    python tests/benchmarks/bench_folder.py --files 100000 --json

Writes the tree into a temporary folder: a folder a patient, in it CT and MR, three files of 8 kB of voxels in each, of
64 different volumes. ``list``: table of the folder and records of all files. ``check``: preflight of all, in Ray tasks
on the cores of this machine. ``again``: the same with every verdict known. ``facts``: what the archive's page counts
(rows, headers, duplicates). Each is a fresh process. Its memory is ru_maxrss, Python and libraries included; that of
Ray's own processes is the largest sum of their uss, sampled once a second. The files are in the page cache.
"""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from harness import Row, Timing, at_most, circumstances, parser, report

from prism_ssl.data.scan import nifti_bytes

FILES, QUICK_FILES, FILES_EACH, KINDS = 100_000, 240, 3, 64
SHAPE, SPACING_MM = (16, 16, 16), 2.0
PROGRAM = """
import dataclasses, json, resource, threading, time
from pathlib import Path
import psutil
from prism_ssl.config.defaults import apply_overrides, phantom_cpu
from prism_ssl.data.catalog import load_records
from prism_ssl.utils.fs import temporary_root
from prism_ssl.utils.ray_cluster.session import ray_environment, ray_session

config = apply_overrides(phantom_cpu(), dict({{"data.catalog_path": {folder!r}, "data.n_scans": {files}}}))
found, others_bytes, over = dict(), [0], threading.Event()

def watch():
    while not over.wait(1.0):
        total = 0
        for process in psutil.Process().children(recursive=True):
            try:
                total += process.memory_full_info().uss
            except psutil.Error:
                pass
        others_bytes.append(total)

def timed(name, work):
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    found[name] = dict(wall_s=time.perf_counter() - wall, cpu_s=time.process_time() - cpu)
    found[name]["peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return result

selection = timed("list", lambda: load_records(config.data, 0))
found["records"], found["rows"] = len(selection.records), selection.report.rows
if {check}:
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    with ray_environment(temporary_root()):
        from prism_ssl.data.archive import SelectedScans, scan_verdicts
        from prism_ssl.report.archive.duplicates import duplicates
        from prism_ssl.report.archive.facts import archive_facts
        selected, cache = SelectedScans(Path({folder!r}), selection), Path({cache!r})
        with ray_session(1, 2**27, temporary_root()):
            preflight = timed("check", lambda: scan_verdicts(selected, config, cache))
        found["kept"], found["checked"] = preflight.report.kept, preflight.report.checked
        if not preflight.report.checked:
            facts = timed("facts", lambda: archive_facts(selection, preflight.verdicts, config.data))
            timed("duplicates", lambda: duplicates(facts.scans, 60.0))
    over.set()
    found["others_bytes"] = max(others_bytes)
print(json.dumps(found))
"""


def write_tree(folder: Path, files: int) -> int:
    """``files`` sound scans; returns their bytes."""
    rng, written = np.random.default_rng(0), 0
    volumes = {
        modality: [_file(rng, lowest) for _ in range(KINDS)] for modality, lowest in (("CT", -1000), ("MR", 200))
    }
    for number in range(files):
        patient, modality = number // (2 * FILES_EACH), ("CT", "MR")[number // FILES_EACH % 2]
        path = folder / f"P{patient:06d}" / modality / f"scan-{number % FILES_EACH}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        written += path.write_bytes(volumes[modality][number % KINDS])
    return written


def _file(rng: np.random.Generator, lowest: int) -> bytes:
    """A body of noise in air, or in noise, of the ``lowest`` value."""
    voxels = np.full(SHAPE, lowest, np.int16)
    voxels[4:-4, 4:-4, 4:-4] = lowest + 1040
    voxels += rng.normal(0, 20, SHAPE).astype(np.int16)
    return gzip.compress(nifti_bytes(voxels, np.diag([SPACING_MM, SPACING_MM, SPACING_MM, 1.0])), 1)


def run(folder: Path, cache: Path, files: int, check: bool) -> dict[str, Any]:
    """What the program found, in a fresh process."""
    program = PROGRAM.format(folder=str(folder), cache=str(cache), files=files, check=check)
    ended = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, check=True)
    made: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return made


def targets(files: int, listed: dict[str, Any], checks: list[dict[str, Any]]) -> list[Row]:
    """Memory must not stand in the way of an archive of this size."""
    peaks = {
        "listed and grouped": (1, listed["list"]),
        "checked, memory of the driver": (
            2,
            max((found["check"] for found in checks), key=lambda one: one["peak_bytes"]),
        ),
        "counted for the page": (2, checks[-1]["duplicates"]),
    }
    return [
        at_most(f"folder of {files:,} files, {what}: peak", "-", limit_gb, found["peak_bytes"] / 1e9, "GB")
        for what, (limit_gb, found) in peaks.items()
    ]


def main() -> dict[str, Any]:
    """Writes the tree, measures, prints."""
    options = parser(__doc__)
    options.add_argument("--files", type=int, help=f"files of the tree (default {FILES:,}; {QUICK_FILES} with --quick)")
    chosen = options.parse_args()
    files = chosen.files or (QUICK_FILES if chosen.quick else FILES)
    where = circumstances()
    with tempfile.TemporaryDirectory(prefix="bench_folder_") as name:
        folder, cache = Path(name) / "tree", Path(name) / "verdicts"
        size = write_tree(folder, files)
        listed = run(folder, cache, files, check=False)
        checks = [run(folder, cache, files, check=True) for _ in range(2)]
    steps = {"list": listed["list"], "check": checks[0]["check"], "again": checks[1]["check"]}
    steps |= {name: checks[1][name] for name in ("facts", "duplicates")}
    facts: dict[str, Any] = {
        "files": f"{files:,} in {size / 1e6:,.0f} MB; {checks[0]['kept']:,} usable, {checks[1]['checked']} read again",
        "Ray's processes": f"at most {max(found['others_bytes'] for found in checks) / 1e9:.2f} GB",
    }
    for name, found in steps.items():
        rate = files / found["wall_s"]
        facts[name] = (
            f"{rate:,.0f} files/s, CPU of the driver {found['cpu_s']:.1f} s, peak {found['peak_bytes'] / 1e9:.2f} GB"
        )
    timings = {name: Timing.of([found["wall_s"] * 1e3]) for name, found in steps.items()}
    return report("bench_folder", where, timings, targets(files, listed, checks), chosen.json, facts)


if __name__ == "__main__":
    main()
