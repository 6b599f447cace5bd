"""Can a run with these settings begin here? ``python tune/check_job.py RECIPE [--section.key value ...]``.

Asked by job scripts before they start anything: an error costs seconds, not a night in the queue.
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
from tune.train_single import parse


def check_temporary_root(config: PrismConfig) -> str:
    """A job's runs leave nothing outside its own folder, where it looks for their stop requests too."""
    given = config.run.tmp_root or os.environ.get(TMP_ROOT)
    if given is not None and "SLURM_JOB_ID" in os.environ:
        raise ConfigError(
            f"run.tmp_root (or {TMP_ROOT}) is {given!r}; leave it out in a SLURM job, which removes what is below "
            "/tmp/$USER/prism_ssl/$SLURM_JOB_ID and asks its runs to stop there"
        )
    return f"temporary files below {temporary_root(config.run.tmp_root)}"


def check_run_root(config: PrismConfig) -> str:
    """Run folders can be written."""
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
    """What the run will leave fits where run folders are."""
    return space_words([config], [folder_for(config)])


def check_catalog(config: PrismConfig) -> str:
    """The catalogue can be read, and selects scans."""
    if config.data.catalog_path is None:
        return f"phantoms of {config.data.phantom_subjects} subjects will be generated"
    selection = load_records(config.data, config.train.seed)
    return f"catalogue {config.data.catalog_path}: {len(selection.records)} of {selection.report.rows} rows selected"


def check_gpus(config: PrismConfig) -> str:  # noqa: ARG001  as all checks
    """Torch can compute on the GPUs of this machine."""
    gpus = require_usable_local_gpus()
    return f"torch computes on {gpus} GPU(s)" if gpus else "no GPU here; training would be on the CPU"


def check_tracking(config: PrismConfig) -> str:
    """Online tracking has a key that its server accepts."""
    words = tracking_words(config.tracking)
    check_account(config)
    return words


CHECKS: tuple[Callable[[PrismConfig], str], ...] = (
    check_temporary_root,
    check_run_root,
    check_quota,
    check_space,
    check_gpus,
    check_tracking,
    check_catalog,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a line per check; 0 when all of them passed."""
    console = Console(soft_wrap=True, highlight=False, markup=False)
    failed = 0
    try:
        config = parse(arguments)
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
