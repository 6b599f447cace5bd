"""The command ``prism``: one subcommand a verb, each imported only when it is called."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import sys
from collections.abc import Sequence
from typing import NamedTuple

from prism_ssl.utils.stop_signals import leave, leave_on_stop_signals


class Verb(NamedTuple):
    """A subcommand: the module whose ``main(arguments)`` returns its exit code, and what it does.

    ``resumes``: a stop signal ends it with exit code 75. ``has_settings``: it has a short and a full help of its own.
    """

    module: str
    does: str
    resumes: bool = False
    has_settings: bool = False


VERBS = {
    "train": Verb("tune.train_single", "train one encoder", resumes=True, has_settings=True),
    "sweep": Verb("tune.tune_core24", "train and rank the cells of the core ablation", resumes=True, has_settings=True),
    "demo": Verb("tune.demo", "train and rank four tiny encoders on generated phantoms", resumes=True),
    "study": Verb("prism_ssl.study.command", "train and compare encoders on public scans", resumes=True),
    "import": Verb("tune.import_archive", "import DICOM folders as an archive", resumes=True),
    "public-scans": Verb("prism_ssl.study.public_scans", "lay out the study's public scans from local clones"),
    "check": Verb(
        "tune.check_job",
        "check settings, disk, GPU, W&B and scans; write their page",
        resumes=True,
        has_settings=True,
    ),
    "plan": Verb("tune.plan_gpu", "plan hours, memory and bytes of the ablation on a GPU"),
    "bench": Verb("tune.bench.command", "measure training on this GPU"),
    "evaluate": Verb("tune.evaluate_run", "evaluate a run's last checkpoint on held-out scans"),
    "embed": Verb("prism_ssl.embed.command", "embed every scan of a catalogue", resumes=True),
    "field": Verb(
        "prism_ssl.embed.field.command", "embed a lattice, points, masks or the whole of scans", resumes=True
    ),
    "picture": Verb("prism_ssl.explore.field.command", "draw fields beside their scans"),
    "probe": Verb("prism_ssl.embed.probe.command", "read labels from embeddings, masks from fields, or find landmarks"),
    "landmarks": Verb(
        "prism_ssl.study.landmarks", "find the same places in scans of other patients by registration", resumes=True
    ),
    "tilt": Verb("prism_ssl.embed.field.tilt", "copy scans into another pose, with the points of a table"),
    "search": Verb("prism_ssl.embed.search", "find the most similar scans, or places of scans"),
    "inspect": Verb("prism_ssl.inspect.command", "draw a pair of views where they lie in their scan"),
    "leakcheck": Verb("prism_ssl.leak.command", "check whether the pretext task needs anatomy"),
    "plot": Verb("prism_ssl.report.plots", "draw the history of runs"),
    "notebook": Verb("prism_ssl.cli.notebook", "open the notebook of runs, or of scans"),
}
_UNKNOWN, _INTERRUPTED = 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the subcommand that the first argument names; returns its exit code, or 2 for an unknown one."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    verb, rest = (given[0], given[1:]) if given else ("--help", [])
    if verb == "--version":
        print(importlib.metadata.version("prism-ssl"))  # noqa: T201
        return 0
    if verb in ("-h", "--help", "--help-all", "help"):
        print(overview())  # noqa: T201  help goes to stdout, without colours
        return 0
    if verb not in VERBS:
        print(f"prism: no subcommand {verb!r}; needed: one of {', '.join(VERBS)}", file=sys.stderr)  # noqa: T201
        return _UNKNOWN
    if not VERBS[verb].has_settings:
        rest = ["--help" if word == "--help-all" else word for word in rest]
    code: int = importlib.import_module(VERBS[verb].module).main(rest)
    return code


def overview() -> str:
    """All subcommands, a line each."""
    width = max(len(name) for name in VERBS) + 2
    lines = [f"  {name:<{width}}{verb.does}" for name, verb in VERBS.items()]
    return "\n".join(
        [
            "usage: prism SUBCOMMAND ...",
            "",
            *lines,
            "",
            "prism SUBCOMMAND --help fits on a screen; --help-all lists every setting.",
            "Begin with: prism demo",
        ]
    )


def console_script() -> None:
    """The entry point of the installed command: stop signals end it at once until its work begins."""
    verb = VERBS.get(sys.argv[1]) if len(sys.argv) > 1 else None
    if verb is not None and verb.resumes:
        leave_on_stop_signals()
    try:
        code = main()
        sys.stdout.flush()
    except KeyboardInterrupt:
        code = _INTERRUPTED
    except BrokenPipeError:  # such as `| head`: the reader has what it wanted
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    leave(code)


if __name__ == "__main__":
    console_script()
