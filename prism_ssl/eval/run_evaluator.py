"""The evaluator of a run: draws the held-out views once, in the background, and evaluates networks on them.

scikit-learn takes a second to import, in which a GPU would wait. So this module imports what needs it in the
background, while a run waits for its first batch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING

from prism_ssl.config.schema import PrismConfig
from prism_ssl.contracts import Float64, PreparedScan

if TYPE_CHECKING:
    from prism_ssl.eval.place.retrieval import PlaceSet
    from prism_ssl.eval.probe_set import ProbeSet
    from prism_ssl.eval.quality.evidence import PatientEvidence
    from prism_ssl.model.network import PrismNet

_AHEAD_S = 1800.0
"""Longest wait of the first evaluation for views that are drawn in the background; after it, the call draws them."""


class Evaluator:
    """Evaluates the encoders of one run on one probe set and place test, which are drawn once: by ``draw_ahead`` in the
    background, or at the first call. The views are the same."""

    def __init__(self, held_out: Sequence[PreparedScan], config: PrismConfig, catalog: Path) -> None:
        self._held_out, self._config, self._catalog = held_out, config, catalog
        self._sets: tuple[ProbeSet, PlaceSet] | None = None
        self._drawn_ahead: tuple[ProbeSet, PlaceSet] | None = None
        self._ahead: Thread | None = None
        self._import_error: Exception | None = None
        self._baselines: dict[str, float] = {}
        self._untrained_place: dict[str, Float64] = {}
        self.evidence: PatientEvidence | None = None
        """Evidence per patient of the last call."""

    def events_of_left_out(self) -> list[tuple[str, str]]:
        """Events, kind and text: what the evaluation leaves out; known after the first call."""
        if self._sets is None:
            return []
        probe_set, place_set = self._sets
        events = [
            ("broken_scan", f"held-out scan {scan.scan_id} is left out of the probe set: {scan.cause}")
            for scan in probe_set.left_out
        ]
        if pairs := place_set.left_out:
            told = f"pairs of series left out of the place test: {len(pairs)}; the first: {pairs[0]}"
            events.append(("place_test", told))
        return events

    def import_ahead(self) -> None:
        """Start to import what an evaluation needs, in the background."""
        with suppress(RuntimeError):  # no thread can be started: the first call imports
            Thread(target=self._import_quietly, name="held-out-imports", daemon=True).start()

    def _import_quietly(self) -> None:
        try:
            import prism_ssl.eval.evaluate  # noqa: F401  for the first call
        except Exception as error:  # noqa: BLE001  edge of a thread: ``draw_ahead`` raises it
            self._import_error = error

    def draw_ahead(self) -> None:
        """Start to draw the views in the background, once; the first call waits for them.

        A scan of 157 MB takes about a second to open, and 64 of them are a minute in which a GPU would wait. Raises
        what ``import_ahead`` met, hours before an evaluation would.
        """
        if self._import_error is not None:
            raise self._import_error
        if self._ahead is None and self._held_out:
            self._ahead = Thread(target=self._draw_quietly, name="held-out-views", daemon=True)
            with suppress(RuntimeError):  # no thread can be started: the first call draws
                self._ahead.start()

    def _draw_quietly(self) -> None:
        with suppress(Exception):  # the first call draws again, and raises what it meets
            self._drawn_ahead = self._draw()

    def _draw(self) -> tuple[ProbeSet, PlaceSet]:
        from prism_ssl.eval.place.retrieval import build_place_set
        from prism_ssl.eval.probe_set import build_probe_set

        probe_set = build_probe_set(self._held_out, self._config, self._catalog)
        return probe_set, build_place_set(self._held_out, self._config)

    def __call__(self, network: PrismNet) -> dict[str, float]:
        """The scalars of ``evaluate`` and those of ``evaluate_untrained``; empty without scans."""
        from prism_ssl.eval.evaluate import evaluate, evaluate_untrained, place_gains

        if self._sets is None:  # once: a thread that comes too late does not change what later calls are asked
            if self._ahead is not None and self._ahead.ident is not None:
                self._ahead.join(min(_AHEAD_S, self._config.train.rank_timeout_s / 2))
            self._sets = self._drawn_ahead or self._draw()
        probe_set, place_set = self._sets
        if not probe_set.scans:
            return {}
        done = evaluate(network, probe_set, self._config, place_set)
        if not self._baselines:
            self._baselines, self._untrained_place = evaluate_untrained(
                network, done.answers, probe_set, place_set, self._held_out, self._config
            )
        self.evidence = done.evidence and dataclasses.replace(done.evidence, untrained_place=self._untrained_place)
        return done.values | self._baselines | place_gains(self.evidence)
