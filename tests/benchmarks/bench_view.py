"""Time of one view (1,024 oblique patches of 16x16, trilinear, windowed) from a 512x512x300 volume, on one thread.

    python tests/benchmarks/bench_view.py --json

``extract_view`` for each voxel type, against one ``torch.nn.functional.grid_sample`` call and one
``scipy.ndimage.map_coordinates`` call on a float32 volume (coordinates prepared beforehand, window not applied: less
work than ours), and against ``view_limit.c``: the same work in hand-written AVX-512, compiled here by the system's C
compiler, coordinates prepared beforehand. The limit is the fastest of that program's four ways to load.

Each contestant walks through the same drawn views from its own place in the list, so that none finds in the caches
what another has just read. The first view is checked: all contestants must agree where the patch lies in the volume.
"""

from __future__ import annotations

import ctypes
import itertools
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.ndimage
import torch
from harness import Row, Timing, at_least, at_most, circumstances, measure, parser, report

from prism_ssl.config.schema import ViewConfig
from prism_ssl.contracts import PATCH_PX, PATCH_SCALE, Float32, Float64, RobustStats
from prism_ssl.data.extract.cpu import extract_view, warm_up
from prism_ssl.data.scan.geometry import acquisition_frame, apply_affine, inverse
from prism_ssl.data.scan.nifti import OpenScan
from prism_ssl.data.views.view_pairs import View, draw_view

SHAPE = (512, 512, 300)
N_PATCHES, PATCH_MM = 1024, 16.0
N_VIEWS = 48
PLACES_APART = 11  # between two contestants in the list of views; no divisor of N_VIEWS
STATS = RobustStats(lowest=-1000.0, median=40.0, std=200.0)
DTYPES = ("int16", "uint16", "uint8", "int32", "float32")
AFFINE = np.array([[-0.7, 0, 0, 180], [0, -0.7, 0, 180], [0, 0, 1, -150], [0, 0, 0, 1]], np.float64)
C_SOURCE = Path(__file__).with_name("view_limit.c")
C_WAYS = ("view_gather", "view_gather_prefetch", "view_insert", "view_insert_prefetch")
LARGEST_DIFFERENCE = 4 / PATCH_SCALE  # of the windowed values; float32 coordinates differ by 1e-4 voxel
GRID_DIFFERENCE = 0.02  # grid_sample's normalised float32 coordinates move noise by more

Call = Callable[[], object]


@dataclass(frozen=True)
class Lattice:
    """A view in the voxels of the volume: pixel (r, c) of a patch is first + c * column + r * row."""

    first: Float64  # [N, 3]
    column: Float64  # [3]
    row: Float64  # [3]

    @classmethod
    def of(cls, view: View) -> Lattice:
        """From the definition in ``extract_view``, and independent of its code."""
        to_voxel, axes = inverse(AFFINE), view.rotation @ acquisition_frame(AFFINE)[:, :2]
        column, row = (to_voxel[:3, :3] @ axes * (PATCH_MM / PATCH_PX)).T
        middle = (PATCH_PX - 1) / 2 * (column + row)
        return cls(apply_affine(to_voxel, view.patch_centers_mm()) - middle, column, row)

    def points(self) -> Float64:
        """Voxel coordinates of all pixels, [N, 16, 16, 3]."""
        steps = np.arange(PATCH_PX, dtype=np.float64)
        across, down = steps[None, :, None] * self.column, steps[:, None, None] * self.row
        points: Float64 = self.first[:, None, None] + across + down
        return points

    def inside(self) -> npt.NDArray[np.bool_]:
        """Patches that lie wholly in the volume, [N]."""
        points = self.points()
        held = (points >= 0) & (points <= np.array(SHAPE) - 1)
        return np.asarray(held.all(axis=(1, 2, 3)), np.bool_)


class _CView(ctypes.Structure):
    """The C program's view; the arrays it points to are held by the caller."""

    _fields_ = (
        ("voxels", ctypes.c_void_p),
        ("shape", ctypes.c_int64 * 3),
        ("first", ctypes.c_void_p),
        ("n", ctypes.c_int64),
        ("column", ctypes.c_double * 3),
        ("row", ctypes.c_double * 3),
        ("gain", ctypes.c_float),
        ("offset", ctypes.c_float),
        ("outside", ctypes.c_float),
        ("out", ctypes.c_void_p),
    )


class Contest:
    """The volumes, the views, and one callable a contestant; each call extracts its next view."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        base = rng.integers(-1000, 2000, SHAPE[::-1], dtype=np.int16)
        raw: dict[str, npt.NDArray[Any]] = {
            "int16": base,
            "uint16": (base + 1000).astype(np.uint16),
            "uint8": (base // 16 + 64).astype(np.uint8),
            "int32": base.astype(np.int32),
            "float32": base.astype(np.float32),
        }
        self.scans = {name: OpenScan(raw[name], 1.0, 0.0, AFFINE, STATS) for name in DTYPES}
        self.views = [draw_view(AFFINE, SHAPE, STATS, ViewConfig(), N_PATCHES, rng) for _ in range(N_VIEWS)]
        self.lattices = [Lattice.of(view) for view in self.views]
        self.out = np.zeros((N_PATCHES, PATCH_PX, PATCH_PX), np.int16)
        self.calls: dict[str, Call] = {}

    def add(self, name: str, of_view: Callable[[int], object]) -> None:
        """A contestant that takes the number of a view; it begins where no other one does."""
        places = itertools.cycle(range(N_VIEWS))
        turn = itertools.islice(places, PLACES_APART * len(self.calls) % N_VIEWS, None)
        self.calls[name] = lambda: of_view(next(turn))

    def windowed(self, values: Float32) -> Float64:
        """Raw values of view 0 as the network would see them."""
        view = self.views[0]
        shown: Float64 = np.clip((values.astype(np.float64) - view.window_center) * 2 / view.window_width, -1, 1)
        return shown

    def difference(self, shown: npt.NDArray[Any]) -> float:
        """Largest difference of view 0 from scipy's float64 interpolation, over the patches inside the volume."""
        inside, points = self.lattices[0].inside(), self.lattices[0].points()
        coordinates = points[inside].reshape(-1, 3).T[::-1]
        volume = self.scans["int16"].voxels
        exact = scipy.ndimage.map_coordinates(volume, coordinates, np.float64, order=1, prefilter=False)
        return float(np.abs(shown[inside] - self.windowed(exact).reshape(-1, PATCH_PX, PATCH_PX)).max())


def add_ours(contest: Contest) -> None:
    """``extract_view`` for each voxel type, its own preparations included."""

    def of_view(name: str) -> Callable[[int], object]:
        return lambda number: extract_view(contest.scans[name], contest.views[number], PATCH_MM, contest.out)

    for name in DTYPES:
        warm_up(name)
        contest.add(f"extract_view {name}", of_view(name))
    extract_view(contest.scans["int16"], contest.views[0], PATCH_MM, contest.out)
    _check("extract_view", contest.difference(contest.out / PATCH_SCALE), LARGEST_DIFFERENCE)


def add_grid_sample(contest: Contest) -> None:
    """One torch call a view, on a float32 volume and a prepared grid."""
    torch.set_num_threads(1)
    volume = torch.from_numpy(contest.scans["float32"].voxels)[None, None]
    scale = 2 / (np.array(SHAPE) - 1)
    grids = [torch.from_numpy((lattice.points() * scale - 1).astype(np.float32))[None] for lattice in contest.lattices]

    def of_view(number: int) -> torch.Tensor:
        return torch.nn.functional.grid_sample(volume, grids[number], align_corners=True)

    contest.add("grid_sample", of_view)
    _check("grid_sample", contest.difference(contest.windowed(of_view(0)[0, 0].numpy())), GRID_DIFFERENCE)


def add_map_coordinates(contest: Contest) -> None:
    """One scipy call a view, on a float32 volume and prepared coordinates."""
    volume = contest.scans["float32"].voxels
    columns = [np.ascontiguousarray(lattice.points().reshape(-1, 3).T[::-1]) for lattice in contest.lattices]

    def of_view(number: int) -> Any:
        return scipy.ndimage.map_coordinates(volume, columns[number], order=1, prefilter=False, cval=STATS.lowest)

    contest.add("map_coordinates", of_view)
    shown = contest.windowed(of_view(0)).reshape(contest.out.shape)
    _check("map_coordinates", contest.difference(shown), LARGEST_DIFFERENCE)


def add_limit(contest: Contest, folder: Path) -> str:
    """The C program's ways, where it can be compiled; says how the limit was obtained, or why not."""
    library = folder / "view_limit.so"
    command = ["cc", "-O3", "-march=native", "-shared", "-fPIC", "-o", str(library), str(C_SOURCE), "-lm"]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
        version = subprocess.run(["cc", "--version"], check=True, capture_output=True, text=True).stdout
    except FileNotFoundError:
        return "skipped: this machine has no C compiler (cc)"
    except subprocess.CalledProcessError as error:
        return f"skipped: {C_SOURCE.name} does not compile here: {error.stderr.strip()[-300:]}"
    loaded = ctypes.CDLL(str(library))
    views = [_c_view(contest, number) for number in range(N_VIEWS)]

    def way(name: str) -> Callable[[int], object]:
        run = getattr(loaded, name)
        return lambda number: run(ctypes.byref(views[number]))

    for name in C_WAYS:
        contest.add(name, way(name))
        contest.out.fill(0)
        way(name)(0)
        _check(name, contest.difference(contest.out / PATCH_SCALE), LARGEST_DIFFERENCE)
    compiler = version.partition("\n")[0]
    return f"fastest of {', '.join(C_WAYS)} in {C_SOURCE.name}, measured here; {compiler}, -O3 -march=native"


def _c_view(contest: Contest, number: int) -> _CView:
    lattice, view, scan = contest.lattices[number], contest.views[number], contest.scans["int16"]
    gain = 2 * PATCH_SCALE / view.window_width
    return _CView(
        voxels=scan.voxels.ctypes.data,
        shape=SHAPE,
        first=lattice.first.ctypes.data,
        n=N_PATCHES,
        column=tuple(lattice.column),
        row=tuple(lattice.row),
        gain=gain,
        offset=-view.window_center * gain,
        outside=STATS.lowest,
        out=contest.out.ctypes.data,
    )


def _check(name: str, difference: float, limit: float) -> None:
    if difference > limit:
        raise RuntimeError(
            f"{name} differs by {difference:.3g} from float64 interpolation; needed: at most {limit:.3g}"
        )


def targets(timings: dict[str, Timing]) -> list[Row]:
    """The rows of DESIGN 4 that this benchmark answers; ratios of medians."""
    median = {name: timing.median_ms for name, timing in timings.items()}
    ours, what = median["extract_view int16"], "one view, int16"
    rows = [
        at_least(what, f"{name}, float32 volume", 9, median[name] / ours) for name in ("grid_sample", "map_coordinates")
    ]
    limits = [median[name] for name in C_WAYS if name in median]
    if limits:
        rows.insert(0, at_most(what, "the hand-vectorised limit", 1.3, ours / min(limits)))
    others = [at_most(f"one view, {x}", "one view, int16", 1.6, median[f"extract_view {x}"] / ours) for x in DTYPES[1:]]
    return rows + others


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Draws, checks, measures, prints."""
    options = parser(__doc__).parse_args(arguments)
    where = circumstances()
    contest = Contest()
    with tempfile.TemporaryDirectory(prefix="bench_view_") as folder:
        add_ours(contest)
        add_grid_sample(contest)
        add_map_coordinates(contest)
        limit = add_limit(contest, Path(folder))
        timings = measure(contest.calls, repeats=24 if options.quick else 8 * N_VIEWS, warmup=4)
    facts = {
        "volume": "x".join(map(str, SHAPE)) + " of random values",
        "view": f"{N_PATCHES} patches of {PATCH_PX}x{PATCH_PX}, {PATCH_MM:g} mm, {N_VIEWS} views in turn",
        "patches inside the volume": f"{np.mean([lattice.inside().mean() for lattice in contest.lattices]):.1%}",
        "threads": 1,
        "limit": limit,
    }
    return report("bench_view", where, timings, targets(timings), options.json, facts)


if __name__ == "__main__":
    main()
