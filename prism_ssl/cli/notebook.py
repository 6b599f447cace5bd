"""Open a marimo notebook in the browser: ``prism notebook [runs|scans] [-- ARGUMENTS]``."""

from __future__ import annotations

import argparse
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

from prism_ssl.cli.catalog_options import EXIT_REFUSED, refused
from prism_ssl.errors import ConfigError

NOTEBOOKS = {"runs": "explore_runs.py", "scans": "inspect_views.py"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve the notebook until Ctrl-C; the exit code is marimo's, or 2 where the notebook is not installed."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    at = words.index("--") if "--" in words else len(words)
    given, rest = _parser().parse_args(words[:at]), words[at + 1 :]
    try:
        notebook = find_notebook(given.which)
    except ConfigError as error:
        return refused(error, EXIT_REFUSED)
    server = [] if given.port is None else ["--port", str(given.port)]
    quiet = ["--headless"] if given.headless else []
    command = [sys.executable, "-m", "marimo", "run", *server, *quiet, str(notebook)]
    try:
        return subprocess.run([*command, "--", *rest] if rest else command, check=False).returncode
    except KeyboardInterrupt:  # marimo has had it too, and has said good-bye
        return 0


def find_notebook(which: str) -> Path:
    """The notebook in the repository, or among the installed files.

    Raises:
        ConfigError: it is in neither place.
    """
    name = NOTEBOOKS[which]
    places = [Path(__file__).parents[2] / "notebooks", Path(sysconfig.get_path("data")) / "share/prism_ssl/notebooks"]
    for place in places:
        if (place / name).is_file():
            return place / name
    raise ConfigError(f"{name} is neither in {places[0]} nor in {places[1]}; install PRISM SSL again, or use a clone")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="prism notebook",
        usage="prism notebook [runs|scans] [--port PORT] [--headless] [-- ARGUMENTS]",
        description="Open a notebook in the browser. ARGUMENTS are the notebook's, such as --runs FOLDER.",
    )
    parser.add_argument(
        "which", nargs="?", choices=NOTEBOOKS, default="runs", help="runs: losses, ranking, embeddings; scans: views"
    )
    parser.add_argument("--port", type=int, help="port to serve at (default: the first free one)")
    parser.add_argument("--headless", action="store_true", help="do not open a browser")
    return parser


if __name__ == "__main__":
    sys.exit(main())
