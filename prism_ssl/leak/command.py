"""Leak check, which measures whether the pretext task can be solved without anatomy: ``prism leakcheck CATALOG``.

Every reader below gets less than the encoder, and should fail. Skill is 2 x balanced accuracy - 1 of a predicted
sign: 0 is chance, 1 perfect. A row is a leak when its whole interval lies above its bound; ``control`` rows come from
a drawer that leaks on purpose, and must be caught.

Bounds and their reasons
    0     positions, blanked, lattice: a view's positions are drawn independently of all else, so any skill is a leak.
    0.10  blur: rotation predicted from statistics of the interpolated energy of white noise. Trilinear
          interpolation blurs most half-way between voxels; only amounts of blur, which are even in the angle, can be
          seen without knowing where the slices are. 0.10 is half of a weak head's skill (0.2).
    0.60  phase: a reader that knows affine and slice distance of each scan does better: the blur varies with the
          distance to the voxel planes, and its phase over known positions gives their tilt. On pure noise this reads
          any rotation (reported as the ceiling, without a bound). The check uses as many patches as training does: on
          33 real scans it reads 0.1 to 0.3 from 256 patches and 0.15 to 0.54 from 1,024. So the leak exists. To use
          it, an encoder would have to learn such a matched filter for every voxel size. Moving each patch by up to
          half a voxel, without changing the position passed on, removes it (noise: 0.97 -> 0.04), but makes positions
          uncertain by half a voxel; training does not do that.
    0     answer: whether the encoder has learned that filter. It sees noise on the grid of each scan (no anatomy, all
          of the phase); its embeddings must not predict the rotation. Pass the trained encoder with --encoder.
    0.10  padding and rotation; 0.30  padding and displacement: a ball within 8 mm of a face has patches that cross
          it, and the side of the crossing is a true landmark of the scan. In thin slabs every ball is near a face.
    none  retrieval: the recall of modality, spacing or intensity alone is not a leak but the level to beat.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.table import Table

from prism_ssl.cli.catalog_options import EXIT_NO, EXIT_OK, add_catalog_options, catalog_settings, refused
from prism_ssl.config.schema import PrismConfig
from prism_ssl.contracts import PreparedScan
from prism_ssl.data.checks import usable_scans
from prism_ssl.errors import PrismError
from prism_ssl.leak.checks import (
    Effort,
    check_answer,
    check_blanked,
    check_lattice,
    check_noise,
    check_positions,
    check_real,
)
from prism_ssl.leak.finding import Finding
from prism_ssl.leak.views import ScanGeometry, entangling_drawer, honest_drawer, rounding_drawer
from prism_ssl.model.backbone import PrismEncoder
from prism_ssl.model.export import load_encoder

_PIPE_COLUMNS = 150
_STYLES = {"ok": "green", "caught": "green", "LEAK": "bold red", "BLIND": "bold red", "reported": "dim"}


def leak_findings(
    scans: Sequence[PreparedScan],
    config: PrismConfig,
    effort: Effort | None = None,
    encoder: PrismEncoder | None = None,
) -> Iterator[Finding]:
    """All findings on usable scans, as they become available; the module lists the bounds."""
    effort = effort or Effort()
    geometries = [ScanGeometry.of(scan) for scan in scans]
    draw = honest_drawer(config.view, effort.n_patches, effort.seed)
    yield from check_positions(geometries, draw, config, effort)
    yield from check_blanked(geometries, draw, config, effort, encoder)
    yield from check_lattice(geometries, draw, config, effort)
    yield from check_lattice(geometries, rounding_drawer(draw), config, effort, control=True)
    yield from check_positions(geometries, entangling_drawer(draw), config, effort, control=True)
    yield from check_blanked(geometries, entangling_drawer(draw), config, effort, encoder, control=True)
    yield from check_noise(geometries, config, effort)
    yield from check_answer(geometries, config, effort, encoder)
    yield from check_real(scans, config, effort)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the findings; 0 when nothing leaks and every control was caught, else as ``catalog_options`` says."""
    given = _parser().parse_args(arguments)
    # a pipe counts as 80 columns wide, too narrow for the table
    console = Console(width=None if sys.stdout.isatty() else _PIPE_COLUMNS)
    try:
        config = PrismConfig(data=catalog_settings(given, given.seed))
        usable = usable_scans(config)
        left_out = "".join(f", {count} {reason}" for reason, count in usable.rejected.items())
        if not given.json:
            console.print(f"{len(usable.scans)} scans used{left_out}", highlight=False)
        encoder = load_encoder(given.encoder) if given.encoder else None
        findings = list(leak_findings(usable.scans, config, encoder=encoder))
    except (PrismError, OSError) as error:
        return refused(error)
    failed = [finding for finding in findings if finding.failed]
    if given.json:
        rows = [dataclasses.asdict(finding) | {"verdict": finding.verdict} for finding in findings]
        report = {"scans": len(usable.scans), "rejected": usable.rejected, "passed": not failed, "findings": rows}
        console.print_json(json.dumps(report))
    else:
        console.print(findings_table(findings))
        console.print(_conclusion(failed), highlight=False, soft_wrap=True)
    return EXIT_NO if failed else EXIT_OK


def findings_table(findings: Sequence[Finding]) -> Table:
    """One row a finding."""
    table = Table("check", "reader", "worst target", "skill or recall", "interval", "bound", "n", "verdict", box=None)
    for found in findings:
        bound = "" if found.bound is None else f"{found.bound:.2f}"
        interval = f"{found.low:+.2f} to {found.high:+.2f}"
        verdict = f"[{_STYLES[found.verdict]}]{found.verdict}[/]"
        name = f"control: {found.check}" if found.control else found.check
        table.add_row(name, found.reader, found.target, f"{found.value:+.3f}", interval, bound, str(found.n), verdict)
    return table


def _conclusion(failed: Sequence[Finding]) -> str:
    if not failed:
        return (
            "no leak: positions predict nothing, interpolation and padding stay within bounds, every control was caught"
        )
    named = "; ".join(f"{found.check} ({found.reader}, {found.target} {found.value:+.2f})" for found in failed)
    return f"{len(failed)} of the checks failed: {named}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="prism leakcheck", description="Check whether the pretext task can be solved without anatomy."
    )
    add_catalog_options(parser, n_scans=40)
    parser.add_argument("--scans", dest="n_scans", type=int, metavar="N", help="the same as --data.n-scans")
    parser.add_argument("--seed", type=int, default=0, help="seed of the scan selection")
    parser.add_argument("--encoder", help="run folder of the encoder to check (default: an untrained one)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    return parser


if __name__ == "__main__":
    sys.exit(main())
