"""Laws of the whole house, read from the syntax trees: who may import whom, and how large a part may grow."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

LAYERS = {
    "prism_ssl.contracts": 0, "prism_ssl.errors": 0, "prism_ssl.config": 0, "prism_ssl.utils": 0,
    "prism_ssl.data": 1, "prism_ssl.model": 1, "prism_ssl.cli": 1,
    "prism_ssl.records": 2, "prism_ssl.eval": 2,
    "prism_ssl.report": 3, "prism_ssl.embed": 3, "prism_ssl.leak": 3, "prism_ssl.inspect": 3, "prism_ssl.study": 3,
    "prism_ssl.train": 4,
    "prism_ssl.explore": 5, "tune": 5,
    "notebooks": 6,
}  # fmt: skip
"""Height of every part; imports go downwards or stay inside a part, and the parts of layer 0 may share."""

WRITERS_OF_SCANS = (
    "prism_ssl/data/scan/channel_volume.py", "prism_ssl/data/phantoms/writer.py", "tests/support/broken_files.py",
)  # fmt: skip
HOMES = {
    "wandb": ("prism_ssl/utils/wandb_client.py",),
    "nibabel": ("prism_ssl/data/scan/nifti.py", "prism_ssl/data/scan/nifti_writer.py", *WRITERS_OF_SCANS),
    "isal": ("prism_ssl/data/scan/byte_stream.py", *WRITERS_OF_SCANS),
    "numba": ("prism_ssl/data/extract/*.py",),
    "llvmlite": ("prism_ssl/data/extract/*.py",),
    "jinja2": ("prism_ssl/report/archive/page.py",),
    "PIL": ("prism_ssl/report/archive/pictures.py",),
    "tyro": ("tune/*.py",),
    "pydicom": ("prism_ssl/data/dicom/header.py",),
    "huggingface_hub": ("prism_ssl/model/hub.py",),
    "SimpleITK": ("prism_ssl/study/registration.py",),
    "monai": ("prism_ssl/embed/monai_transforms.py",),
}
"""Foreign libraries that have one home, and where it is."""

MAX_FILE_LINES, MAX_FUNCTION_LINES, MAX_NAMES = 400, 60, 16
FACED = "prism_ssl.data"
"""The sub-packages of this package are imported by their face: ``from prism_ssl.data.scan import open_scan``."""


def _files(root: Path, *folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (root / folder).rglob("*.py"))


def _library(root: Path = REPOSITORY) -> list[Path]:
    return _files(root, "prism_ssl", "tune", "notebooks")


def _imports(tree: ast.AST) -> Iterator[str]:
    """Dotted names of everything imported anywhere in a file, also inside functions and TYPE_CHECKING."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _part(dotted: str) -> str | None:
    """The part of the house that a dotted name belongs to; None for foreign names and for prism_ssl itself."""
    return next((part for part in LAYERS if f"{dotted}.".startswith(f"{part}.")), None)


def _may_import(part: str, other: str) -> bool:
    return part == other or LAYERS[other] < LAYERS[part] or LAYERS[other] == LAYERS[part] == 0


def upward_imports(root: Path) -> list[str]:
    """Imports of a part that stands above the importing one or beside it."""
    found = []
    for path in _library(root):
        here = path.relative_to(root)
        part = _part(".".join(here.with_suffix("").parts))
        if part is None:
            continue  # prism_ssl/__init__.py: the shop window
        for name in _imports(ast.parse(path.read_text())):
            other = _part(name)
            if other is not None and not _may_import(part, other):
                found.append(f"{here} imports {name}")
    return found


def homeless_imports(root: Path) -> list[str]:
    """Imports of a library outside its home."""
    found = []
    for path in _library(root):
        here = str(path.relative_to(root))
        guests = HOMES.keys() & {name.split(".")[0] for name in _imports(ast.parse(path.read_text()))}
        away = sorted(guest for guest in guests if not any(fnmatch(here, home) for home in HOMES[guest]))
        found += [f"{here} imports {guest}" for guest in away]
    return found


def _module(path: Path, root: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _room(module: str, packages: set[str]) -> str:
    """The innermost package of a module below the packages of the first level; there, each module is its own room."""
    parent = module if module in packages else module.rpartition(".")[0]
    return parent if parent.count(".") >= 2 or parent.startswith("tune.") else module


def import_cycles(root: Path) -> list[tuple[str, ...]]:
    """Groups of sub-packages and modules that import each other, directly or by way of others."""
    files = {_module(path, root): path for path in _library(root)}
    packages = {module for module, path in files.items() if path.name == "__init__.py"}
    graph: dict[str, set[str]] = {}
    for module, path in files.items():
        here = _room(module, packages)
        for name in _imports(ast.parse(path.read_text())):
            known = next((part for part in (name, name.rpartition(".")[0]) if part in files), None)
            if known is not None and _room(known, packages) != here:
                graph.setdefault(here, set()).add(_room(known, packages))
    ahead = {room: _reachable(room, graph) for room in graph}
    return sorted({tuple(sorted(b for b in ahead[a] if a in ahead.get(b, ()))) for a in ahead if a in ahead[a]})


def _reachable(start: str, graph: dict[str, set[str]]) -> set[str]:
    found: set[str] = set()
    ahead = list(graph.get(start, ()))
    while ahead:
        room = ahead.pop()
        if room not in found:
            found.add(room)
            ahead += graph.get(room, ())
    return found


def faceless_imports(root: Path) -> list[str]:
    """Imports from inside a sub-package of ``FACED`` by those who are not in it."""
    found = []
    for path in _library(root):
        here = _module(path, root)
        for name in _imports(ast.parse(path.read_text())):
            parts = name.split(".")
            face, owner = ".".join(parts[:3]), path.parent / "__init__.py"
            inside = name.startswith(f"{FACED}.") and (root / Path(*parts[:4]).with_suffix(".py")).is_file()
            if inside and len(parts) >= 4 and not f"{here}.".startswith(f"{face}.") and owner.is_file():
                found.append(f"{here} imports {name}")
    return found


def wide_packages(root: Path) -> list[str]:
    """Packages that show more names than a reader takes in at one look."""
    found = []
    for init in sorted((root / "prism_ssl").rglob("__init__.py")) + sorted((root / "tune").rglob("__init__.py")):
        names = {
            path.stem for path in init.parent.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()
        }
        shown = len(names - {"__init__"})
        found += [f"{_module(init, root)} shows {shown} names"] if shown > MAX_NAMES else []
    return found


def _public(
    node: ast.Module | ast.ClassDef, owner: str
) -> Iterator[tuple[str, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]]:
    for child in node.body:
        if isinstance(child, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and not child.name.startswith("_"):
            yield f"{owner}{child.name}", child
            if isinstance(child, ast.ClassDef):
                yield from _public(child, f"{owner}{child.name}.")


def _run(code: str) -> str:
    result = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


# ---------------------------------------------------------------------- imports
def test_layers_import_downwards_only() -> None:
    assert upward_imports(REPOSITORY) == []


def test_every_file_of_the_package_belongs_to_a_layer() -> None:
    parts = {path.relative_to(REPOSITORY) for path in _files(REPOSITORY, "prism_ssl")} - {Path("prism_ssl/__init__.py")}
    assert [str(path) for path in parts if _part(".".join(path.with_suffix("").parts)) is None] == []


def test_every_foreign_library_stays_in_its_home() -> None:
    assert homeless_imports(REPOSITORY) == []


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("prism_ssl/data/views/view_pairs.py", "from prism_ssl.model.heads import PairHeads"),
        ("prism_ssl/model/heads.py", "import prism_ssl.data.views.view_pairs"),
        ("prism_ssl/utils/fs.py", "def late():\n    from prism_ssl.data import views"),
        ("prism_ssl/eval/probe.py", "from prism_ssl.train import learner"),
        ("prism_ssl/train/learner.py", "import tune.core24"),
    ],
)
def test_the_law_of_layers_sees_an_import_upwards_or_aside(tmp_path: Path, path: str, line: str) -> None:
    (tmp_path / path).parent.mkdir(parents=True)
    (tmp_path / path).write_text(line)
    assert len(upward_imports(tmp_path)) == 1


@pytest.mark.parametrize("library", HOMES)
def test_the_law_of_homes_sees_a_guest(tmp_path: Path, library: str) -> None:
    (tmp_path / "prism_ssl/eval").mkdir(parents=True)
    (tmp_path / "prism_ssl/eval/guest.py").write_text(f"def late():\n    from {library}.inner import thing")
    assert homeless_imports(tmp_path) == [f"prism_ssl/eval/guest.py imports {library}"]


def test_no_two_packages_import_each_other() -> None:
    assert import_cycles(REPOSITORY) == []


def test_the_law_of_cycles_sees_a_detour(tmp_path: Path) -> None:
    for name in ("train/run/__init__", "train/run/folder", "train/guards/__init__", "train/guards/alarms"):
        (tmp_path / f"prism_ssl/{name}.py").parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / f"prism_ssl/{name}.py").write_text("")
    (tmp_path / "prism_ssl/train/run/folder.py").write_text("from prism_ssl.train.fit import fit")
    (tmp_path / "prism_ssl/train/fit.py").write_text("from prism_ssl.train.guards import alarms")
    assert import_cycles(tmp_path) == []
    (tmp_path / "prism_ssl/train/guards/alarms.py").write_text("def late():\n    import prism_ssl.train.run.folder")
    assert import_cycles(tmp_path) == [("prism_ssl.train.fit", "prism_ssl.train.guards", "prism_ssl.train.run")]


def test_the_parts_of_data_are_imported_by_their_face() -> None:
    assert faceless_imports(REPOSITORY) == []


def test_the_law_of_faces_sees_an_import_past_one(tmp_path: Path) -> None:
    for name in ("data/__init__", "data/scan/__init__", "data/scan/nifti"):
        (tmp_path / f"prism_ssl/{name}.py").parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / f"prism_ssl/{name}.py").write_text("")
    (tmp_path / "prism_ssl/data/archive.py").write_text("from prism_ssl.data.scan.nifti import open_scan")
    assert len(faceless_imports(tmp_path)) == 1


def test_no_package_shows_more_than_one_look_takes_in() -> None:
    assert wide_packages(REPOSITORY) == []


def test_the_warm_pool_knows_neither_ray_nor_threads_nor_clocks() -> None:
    tree = ast.parse((REPOSITORY / "prism_ssl/data/pool/warm_pool.py").read_text())
    foreign = {name.split(".")[0] for name in _imports(tree)}
    assert foreign & {"ray", "threading", "asyncio", "concurrent", "time", "datetime"} == set()
    assert not any(name.startswith("prism_ssl.utils.time") for name in _imports(tree))


def test_a_pool_actor_never_pays_for_torch() -> None:
    told = _run("import sys, prism_ssl.data.pool.actor; print(sorted({'torch', 'jaxtyping'} & set(sys.modules)))")
    assert told == "[]"


def test_a_training_worker_does_not_import_scikit_learn_before_it_starts() -> None:
    told = _run("import sys, prism_ssl.train.worker; print(sorted({'sklearn', 'scipy.stats'} & set(sys.modules)))")
    assert told == "[]"


def test_ray_is_not_imported_before_its_environment_is_set() -> None:
    modules = "tune.train_single, tune.tune_core24, prism_ssl.utils.ray_cluster.session"
    assert _run(f"import sys, {modules}; print('ray' in sys.modules)") == "False"


# ---------------------------------------------------------------------- words and sizes
def test_everything_public_has_a_docstring() -> None:
    silent = []
    for path in _library():
        tree, here = ast.parse(path.read_text()), path.relative_to(REPOSITORY)
        silent += [] if ast.get_docstring(tree) else [str(here)]
        silent += [f"{here}: {name}" for name, node in _public(tree, "") if not ast.get_docstring(node)]
    assert silent == []


def test_every_deliberate_error_lives_in_errors() -> None:
    strays = [
        f"{path.relative_to(REPOSITORY)}: {node.name}"
        for path in _library()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
        and path != REPOSITORY / "prism_ssl/errors.py"
        and any(ast.unparse(base).endswith(("Error", "Exception")) for base in node.bases)
    ]
    assert strays == []


def test_no_file_and_no_function_outgrows_its_reader() -> None:
    long = []
    for path in _files(REPOSITORY, "prism_ssl", "tune"):
        here, text = path.relative_to(REPOSITORY), path.read_text()
        lines = len(text.splitlines())
        long += [f"{here}: {lines} lines"] if lines > MAX_FILE_LINES else []
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                lines = (node.end_lineno or 0) - node.lineno + 1
                long += [f"{here}: {node.name} has {lines} lines"] if lines > MAX_FUNCTION_LINES else []
    assert long == []


def test_no_check_is_silenced() -> None:
    silencers = ("type: " + "ignore", "|| " + "true")  # in two parts, for this file is read too
    files = [*_library(), *_files(REPOSITORY, "tests"), REPOSITORY / "Makefile", REPOSITORY / ".ci/run"]
    texts = {path: path.read_text() for path in files if path.is_file()}
    silenced = [f"{path.relative_to(REPOSITORY)}: {s}" for path, text in texts.items() for s in silencers if s in text]
    assert silenced == []
