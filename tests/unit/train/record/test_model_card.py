"""A card says what is not known as plainly as what is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from prism_ssl.config.defaults import phantom_cpu
from prism_ssl.model.encoder_source import CARD_FILE, DESCRIPTION_FILE
from prism_ssl.train.guards.unjudged_alarms import too_short_to_judge
from prism_ssl.train.record.model_card import save_model_card

COUNTS = {"scans": 8, "series": 8, "patients": 4, "modalities": {"CT": 8}}
DESCRIPTION: dict[str, Any] = {
    "preset": "tiny", "n_patches": 16, "patch_mm": 16.0, "step": 300, "run": "short", "weights_sha256": "ab",
    "data": {"manifest_hash": "cd", "generated_phantoms": False, "training": COUNTS, "held_out": COUNTS},
    "config": phantom_cpu().to_dict(),
}  # fmt: skip


def _card(folder: Path, probe: dict[str, float], alarms: list[str], not_judged: str | None) -> str:
    (folder / DESCRIPTION_FILE).write_text(json.dumps(DESCRIPTION))
    save_model_card(folder, probe, alarms, not_judged)
    return (folder / CARD_FILE).read_text()


@pytest.mark.parametrize("alarms", [[], ["flat_target/rx: hardly varies"]])
def test_a_card_never_says_none_where_alarms_could_not_be_raised(tmp_path: Path, alarms: list[str]) -> None:
    short = too_short_to_judge(phantom_cpu(), 300)
    assert short is not None
    section = _card(tmp_path, {}, alarms, short).split("## Alarms of the run")[1].split("##")[0]
    assert section.strip().splitlines() == [f"- {line}" for line in (*alarms, short)]


def test_a_long_run_without_alarms_has_none(tmp_path: Path) -> None:
    assert "## Alarms of the run\n\nNone.\n" in _card(tmp_path, {}, [], None)


def test_a_card_says_in_a_sentence_that_random_weights_are_as_good(tmp_path: Path) -> None:
    probe = {"recall_at_1": 0.2, "recall_at_1_random_init": 0.3}
    assert "**Held-out recall@1 does not beat random weights (0.20 against 0.30): " in _card(tmp_path, probe, [], None)
    assert "does not beat" not in _card(tmp_path, probe | {"recall_at_1": 0.31}, [], None)
