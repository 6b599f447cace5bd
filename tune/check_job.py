"""Check whether a run with these settings can begin here: ``prism check [RECIPE] [--section.key value ...]``.

It ends with a page on the archive, for which every selected scan is read once, as a run would. Job scripts run it with
``--no-page`` before they start anything, so that an error costs seconds and not a night in the queue.
"""

from __future__ import annotations

if __name__ == "__main__":  # before all other imports, which take seconds
    from prism_ssl.utils.stop_signals import leave_on_stop_signals

    leave_on_stop_signals()

import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from prism_ssl.config.schema import PrismConfig
from prism_ssl.config.tracking_environment import tracking_words
from prism_ssl.data.catalog import Selection, load_records
from prism_ssl.errors import ConfigError, PrismError, RunFolderError
from prism_ssl.train.guards.deletable_files import Places
from prism_ssl.train.guards.space_plan import space_words
from prism_ssl.train.logging import check_account
from prism_ssl.train.quota_guard import admit
from prism_ssl.train.run.folder import folder_for
from prism_ssl.utils.fs import TMP_ROOT, home_folder, private_folder, temporary_root
from prism_ssl.utils.gpu_check import require_usable_local_gpus
from prism_ssl.utils.ray_cluster.session import ray_environment
from prism_ssl.utils.stop_signals import EXIT_INTERRUPTED, leave, stop_signals_interrupt
from prism_ssl.utils.terminal import failsafe_output
from tune.command_line import CONFIG, read_settings, wants_short_help

NO_PAGE = "--no-page"
RECIPE_WITHOUT_A_NAME = "phantom-cpu"
"""Whose settings are checked where the command names none."""


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


def check_gpus(config: PrismConfig) -> str:
    """Torch can compute on the GPUs of this machine, and compile for them where the settings ask for it."""
    gpus, visible = require_usable_local_gpus(compiles=config.model.compile), os.environ.get("CUDA_VISIBLE_DEVICES")
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
)


class Answers:
    """What the checks said, in turn: whether all is well, and the line that was printed."""

    def __init__(self) -> None:
        self.lines = list[tuple[bool, str]]()
        self._console = Console(soft_wrap=True, highlight=False, markup=False)

    def say(self, well: bool, words: str) -> None:
        """Print a line and keep it."""
        self.lines.append((well, words))
        self._console.print(f"{'ok     ' if well else 'FAILED '} {words}", style=None if well else "red")

    def failed(self, error: PrismError) -> None:
        """A check that ended with an error."""
        self.say(False, f"{type(error).__name__}: {error}")

    @property
    def code(self) -> int:
        """Exit code: 0 when all is well."""
        return 0 if all(well for well, _ in self.lines) else 1


def check_catalog(config: PrismConfig, answers: Answers) -> Selection | None:
    """The catalogue can be read, and selects scans; None where it does not, or phantoms are to be generated."""
    if config.data.catalog_path is None:
        answers.say(True, f"phantoms of {config.data.phantom_subjects} subjects will be generated")
        return None
    try:
        selection = load_records(config.data, config.data.selection_seed)
    except PrismError as error:
        answers.failed(error)
        return None
    report, found = selection.report, len(selection.records)
    words = f"catalogue {config.data.catalog_path}: {found} of {report.rows} rows selected"
    answers.say(True, "; ".join(filter(None, (words, report.assumed))))
    return selection


def settings_of(arguments: Sequence[str]) -> tuple[PrismConfig, bool]:
    """The settings, and whether a page is wanted.

    Raises:
        ConfigError: as ``read_settings``.
    """
    given = [word for word in arguments if word != NO_PAGE]
    names_none = bool(given) and given[0].startswith("--") and not any(word.startswith(CONFIG) for word in given)
    if names_none and not wants_short_help(given) and "--help-all" not in given:
        given = [RECIPE_WITHOUT_A_NAME, *given]
    also = {NO_PAGE: "neither read the scans nor write the page of the archive"}
    return read_settings(given, "prism check", also), NO_PAGE not in arguments


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a line a check, and write the page of the archive.

    0 when all is well, 1 when a check failed, 75 when interrupted while scans are read (the same command resumes).
    """
    answers = Answers()
    try:
        config, page = settings_of(sys.argv[1:] if arguments is None else arguments)
    except PrismError as error:
        answers.say(False, f"settings: {error}")
        return answers.code
    for check in CHECKS:
        try:
            answers.say(True, check(config))
        except PrismError as error:
            answers.failed(error)
    selection = check_catalog(config, answers)
    if page and selection is not None:
        with failsafe_output(), stop_signals_interrupt():
            try:
                _write_page(selection, config, answers)
            except PrismError as error:
                answers.failed(error)
            except KeyboardInterrupt:
                told = "interrupted; run the same command again: it reads the scans that are left"
                Console(stderr=True).print(told, style="yellow")
                return EXIT_INTERRUPTED
    return answers.code


def _write_page(selection: Selection, config: PrismConfig, answers: Answers) -> None:
    with ray_environment(temporary_root(config.run.tmp_root)):
        from tune.archive_check import check_archive  # Ray reads its environment when it is first imported

        page = check_archive(selection, config, answers.lines, answers.say)
    answers.say(True, f"{page}: what is in the archive. It shows images of patients: keep it with the archive")


if __name__ == "__main__":
    leave(main())
