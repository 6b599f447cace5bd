"""Time to open a CT (512x512x200 int16 .nii.gz) until it can be sampled, on one thread.

    python tests/benchmarks/bench_open.py --json

``open_scan`` with the statistics that preflight found and with statistics of its own, both in the memory of the scan
before (as in a pool) and once in new memory, against plain ISA-L inflates of the same bytes (already in memory, nothing
done with the result; the fastest one counts), against nibabel's ``get_fdata`` with percentiles of the full volume, and
against what MONAI and TorchIO do before a first sample can be taken (``pip install -e '.[bench]'``; skipped where they
are missing). The file is in the page cache.

The slow ones take turns with another run of ``open_scan`` in fewer rounds; their ratios are those of that run.
"""

from __future__ import annotations

import importlib
import io
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from harness import Row, Timing, at_least, at_most, circumstances, measure, parser, report
from isal import igzip, isal_zlib

from prism_ssl.contracts import RobustStats
from prism_ssl.data.phantoms.writer import full_size_ct, write_gz
from prism_ssl.data.scan.nifti import open_scan
from prism_ssl.data.scan.volume_memory import VolumeMemory

SHAPE, QUICK_SHAPE = (512, 512, 200), (192, 192, 80)
CHUNK_BYTES = 2**20
GZIP_WBITS = 31
HEADER_BYTES = 352

Call = Callable[[], object]

_igzip: Any = igzip  # isal publishes types for a part of what it offers


def ours(path: Path, stats: RobustStats) -> dict[str, Call]:
    """What a pool actor does (statistics given), what it would do without preflight, and what its first scans cost."""
    memory = VolumeMemory(keep=1)
    return {
        "open_scan, stats given": lambda: open_scan(path, stats, memory=memory),
        "open_scan, stats computed": lambda: open_scan(path, memory=memory),
        "open_scan, new memory": lambda: open_scan(path, stats),
    }


def plain_inflates(path: Path, volume_bytes: int) -> dict[str, Call]:
    """ISA-L on bytes in memory, in one shot and in chunks; only the checksum is verified."""
    packed = path.read_bytes()
    return {
        "inflate, isal_zlib": lambda: isal_zlib.decompress(packed, wbits=GZIP_WBITS),
        "inflate, isal_zlib, size known": lambda: isal_zlib.decompress(
            packed, wbits=GZIP_WBITS, bufsize=HEADER_BYTES + volume_bytes
        ),
        "inflate, igzip": lambda: _igzip.decompress(packed),
        "inflate, igzip in chunks, thrown away": lambda: _inflate_chunks(packed),
    }


def _inflate_chunks(packed: bytes) -> int:
    with _igzip.open(io.BytesIO(packed)) as stream:
        return sum(len(chunk) for chunk in iter(lambda: stream.read(CHUNK_BYTES), b""))


def others(path: Path) -> tuple[dict[str, Call], list[str]]:
    """The plain ways to load a scan, and the names of those whose library is missing."""
    calls: dict[str, Call] = {"nibabel get_fdata + percentiles": lambda: _nibabel_and_percentiles(path)}
    missing = []
    try:
        load_image: Any = importlib.import_module("monai.transforms").LoadImage(image_only=True)
        calls["MONAI LoadImage"] = lambda: load_image(path)
    except ImportError:
        missing.append("MONAI")
    try:
        scalar_image: Any = importlib.import_module("torchio").ScalarImage
        calls["TorchIO ScalarImage"] = lambda: scalar_image(path).load()
    except ImportError:
        missing.append("TorchIO")
    return calls, missing


def _nibabel_and_percentiles(path: Path) -> Any:
    loaded: Any = nib
    values = loaded.load(path).get_fdata()
    return values, np.percentile(values, (0.5, 50, 99.5))


def targets(fast: dict[str, Timing], slow: dict[str, Timing]) -> list[Row]:
    """The rows of DESIGN 4 that this benchmark answers; ratios of medians within one run."""
    inflate = min(timing.median_ms for name, timing in fast.items() if name.startswith("inflate"))
    rows = [
        at_most(name, "the fastest plain inflate", 1.25, fast[name].median_ms / inflate)
        for name in fast
        if name.startswith("open_scan")
    ]
    computed = next(timing for name, timing in slow.items() if name.startswith("open_scan"))
    earlier = slow["nibabel get_fdata + percentiles"]
    ratio = earlier.median_ms / computed.median_ms
    rows.append(at_least("open_scan, stats computed", "nibabel get_fdata + percentiles", 35, ratio))
    return rows


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Writes the scan, measures, prints."""
    options = parser(__doc__).parse_args(arguments)
    where = circumstances()
    with tempfile.TemporaryDirectory(prefix="bench_open_") as folder:
        shape = QUICK_SHAPE if options.quick else SHAPE
        path = write_gz(Path(folder) / "ct.nii.gz", full_size_ct(shape=shape))
        scan = open_scan(path)
        volume_bytes = scan.voxels.nbytes
        contestants = ours(path, scan.stats)
        beside = {"open_scan, stats computed (beside the slow)": contestants["open_scan, stats computed"]}
        slow_ones, missing = others(path)
        fast = measure(contestants | plain_inflates(path, volume_bytes), 3 if options.quick else 20, warmup=2)
        slow = measure(beside | slow_ones, repeats=1 if options.quick else 4, warmup=0 if options.quick else 1)
        facts = {
            "file": f"{'x'.join(map(str, shape))} int16 phantom, {path.stat().st_size / 1e6:.1f} MB of .nii.gz "
            f"(igzip level 1) for {volume_bytes / 1e6:.1f} MB of voxels",
            "stats": str(scan.stats),
            "skipped": ", ".join(missing) or None,
        }
    return report("bench_open", where, fast | slow, targets(fast, slow), options.json, facts)


if __name__ == "__main__":
    main()
