"""Check whether a run with these settings can begin here: ``prism check RECIPE [--section.key value ...]``.

Job scripts run it before they start anything, so that an error costs seconds and not a night in the queue.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from prism_ssl.config.schema import PrismConfig
from prism_ssl.config.tracking_environment import tracking_words
from prism_ssl.data.catalog import load_records
from prism_ssl.errors import ConfigError, PrismError, RunFolderError
from prism_ssl.train.guards.deletable_files import Places
from prism_ssl.train.guards.space_plan import space_words
from prism_ssl.train.logging import check_account
from prism_ssl.train.quota_guard import admit
from prism_ssl.train.run.folder import folder_for
from prism_ssl.utils.fs import TMP_ROOT, home_folder, private_folder, temporary_root
from prism_ssl.utils.gpu_check import require_usable_local_gpus
from tune.command_line import read_settings


def check_temporary_root(config: PrismConfig) -> str:
    """In a SLURM job, the temporary root is the job's own folder: the job deletes it and puts its stop file there."""
    given = config.run.tmp_root or os.environ.get(TMP_ROOT)
    if given is not None and "SLURM_JOB_ID" in os.environ:
        raise ConfigError(
            f"run.tmp_root (or {TMP_ROOT}) is {given!r}; leave it out in a SLURM job, which removes what is below "
            "/tmp/$USER/prism_ssl/$SLURM_JOB_ID and asks its runs to stop there"
        )
    by = "run.tmp_root" if config.run.tmp_root else TMP_ROOT if given else f"the default; {TMP_ROOT} or run.tmp_root"
    return f"temporary files below {temporary_root(config.run.tmp_root)} ({by})"


def check_run_root(config: PrismConfig) -> str:
    """Run folders are writable."""
    root = Path(config.run.root).absolute()
    try:
        with tempfile.TemporaryFile(dir=private_folder(root)):
            return f"run folders in {root}"
    except OSError as error:
        raise RunFolderError(
            f"no file can be written below {root} ({error.strerror}); set --run.root, or PRISM_RUNS in slurm/site.sh"
        ) from error


def check_quota(config: PrismConfig) -> str:
    """The home directory and the temporary root are within their hard limits."""
    tmp_root = temporary_root(config.run.tmp_root)
    notes = admit(config.quota, Places(home_folder(), tmp_root, Path(config.run.root).absolute()))
    return "; ".join(["home and temporary root are within their limits", *notes])


def check_space(config: PrismConfig) -> str:
    """The files of the run will fit where run folders are."""
    return space_words([config], [folder_for(config)])


def check_catalog(config: PrismConfig) -> str:
    """The catalogue can be read, and selects scans."""
    if config.data.catalog_path is None:
        return f"phantoms of {config.data.phantom_subjects} subjects will be generated"
    selection = load_records(config.data, config.train.seed)
    words = f"catalogue {config.data.catalog_path}: {len(selection.records)} of {selection.report.rows} rows selected"
    return "; ".join(filter(None, (words, selection.report.assumed)))


def check_gpus(config: PrismConfig) -> str:  # noqa: ARG001  as all checks
    """Torch can compute on the GPUs of this machine."""
    gpus, visible = require_usable_local_gpus(), os.environ.get("CUDA_VISIBLE_DEVICES")
    words = f"torch computes on {gpus} GPU(s)" if gpus else "no GPU here; training would be on the CPU"
    return words if visible is None else f"{words} (CUDA_VISIBLE_DEVICES is {visible!r})"


def check_cluster(config: PrismConfig) -> str:  # noqa: ARG001  as all checks
    """The Ray cluster that a run would use."""
    address = os.environ.get("RAY_ADDRESS")
    return f"Ray cluster at {address} (RAY_ADDRESS)" if address else "a local Ray cluster will be started"


def check_tracking(config: PrismConfig) -> str:
    """Online tracking has a key that the server accepts."""
    words = tracking_words(config.tracking)
    check_account(config)
    return words


CHECKS: tuple[Callable[[PrismConfig], str], ...] = (
    check_temporary_root,
    check_run_root,
    check_quota,
    check_space,
    check_gpus,
    check_cluster,
    check_tracking,
    check_catalog,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a line per check; 0 when all passed."""
    console = Console(soft_wrap=True, highlight=False, markup=False)
    failed = 0
    try:
        config = read_settings(arguments, "prism check")
    except PrismError as error:
        console.print(f"FAILED  settings: {error}")
        return 1
    for check in CHECKS:
        try:
            console.print(f"ok      {check(config)}")
        except PrismError as error:
            failed = 1
            console.print(f"FAILED  {type(error).__name__}: {error}", style="red")
    return failed


if __name__ == "__main__":
    sys.exit(main())
