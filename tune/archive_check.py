"""Read the selected scans as a run would at its start, and write the page of the archive: a part of ``prism check``."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from prism_ssl.config.schema import PrismConfig
from prism_ssl.data.archive import (
    Archive,
    SelectedScans,
    divided_archive,
    preflight_dir,
    require_usable_scans,
    scan_verdicts,
)
from prism_ssl.data.catalog import Selection
from prism_ssl.data.pool import OBJECT_STORE_MIN_BYTES
from prism_ssl.data.preflight import PreflightResult
from prism_ssl.errors import PrismError
from prism_ssl.report.archive.job import archive_page
from prism_ssl.train.trainer import check_memory, describe_archive
from prism_ssl.utils.fs import temporary_root
from prism_ssl.utils.ray_cluster.session import ray_session

Say = Callable[[bool, str], None]


def check_archive(selection: Selection, config: PrismConfig, said: Sequence[tuple[bool, str]], say: Say) -> Path:
    """Preflight, split and memory plan of the selected scans, each told by ``say``; returns the page. Needs
    ``ray_environment``.

    The verdicts are those of a run with these settings, which reads no file again. ``said`` is put on the page too;
    ``say`` may add to it.

    Raises:
        PrismError: the files cannot be read on this machine.
    """
    selected = SelectedScans(Path(str(config.data.catalog_path)).expanduser().absolute(), selection)
    cache_root, tmp_root = Path(config.run.root).absolute() / ".preflight", temporary_root(config.run.tmp_root)
    with ray_session(1, OBJECT_STORE_MIN_BYTES, tmp_root):
        preflight = scan_verdicts(selected, config, cache_root)
        archive = _divided(selected, preflight, config, cache_root, say)
        if archive is not None:
            _tell(say, lambda: str(check_memory(config, archive)))
    folder = preflight_dir(selected.catalog, cache_root)
    trained_on = sum(map(len, archive.shards)) if archive is not None else 0
    return archive_page(selected, preflight, config, folder, trained_on, said, tmp_root)


def _divided(
    selected: SelectedScans, preflight: PreflightResult, config: PrismConfig, cache_root: Path, say: Say
) -> Archive | None:
    """The archive of a run, described; None, and told why, where there is none."""
    found = list[Archive]()

    def describe() -> str:
        require_usable_scans(selected, preflight, cache_root)
        found.append(divided_archive(selected, preflight, config, cache_root))
        text = io.StringIO()
        describe_archive(found[0], config.data, Console(file=text, width=10**6, no_color=True))
        return "; ".join(text.getvalue().strip().splitlines())

    _tell(say, describe)
    return found[0] if found else None


def _tell(say: Say, words: Callable[[], str]) -> None:
    try:
        say(True, words())
    except PrismError as error:
        say(False, f"{type(error).__name__}: {error}")
