"""Rows of the study's table: what is trained, and how it differs from the recipe ``study``."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Row:
    """A training. ``settings`` override the recipe ``study``; patches a step, steps, encoder, scans and evaluation stay
    the same."""

    title: str
    settings: dict[str, str] = field(default_factory=dict)

    def options(self) -> list[str]:
        """As options of ``prism train``; a switch has no value, and is turned off by ``no-`` before its name."""
        return [_option(key, value) for key, value in self.settings.items()]


def _option(key: str, value: str) -> str:
    section, _, name = key.rpartition(".")
    return {"True": f"--{key}", "False": f"--{section}.no-{name}"}.get(value, f"--{key}={value}")


_SERIES = {
    "loss.supcon-positives": "series",
    "view.same-place-share": "0",
    "view.other-series-share": "0",
    "view.random-contrast": "0",
}

_HEADS = ("loss.w-distance", "loss.w-rotation", "loss.w-window")

ROWS = {
    "prism": Row("PRISM"),
    "guide": Row(
        "PRISM, positives by series",
        _SERIES
        | {"loss.w-supcon-target": "0.2", "view.centers": "anywhere", "loss.heads-across-pairs": "False"}
        | dict.fromkeys(_HEADS, "1"),
    ),
    "one-series": Row("PRISM, each place in one series only", {"view.other-series-share": "0"}),
    "no-contrast": Row("PRISM, no random contrast", {"view.random-contrast": "0"}),
    "no-heads": Row("PRISM, places alone (no pair heads)", dict.fromkeys(_HEADS, "0")),
    "heavy-heads": Row("PRISM, pair heads of weight 1", dict.fromkeys(_HEADS, "1")),
    "simclr": Row(
        "SimCLR, two views of one place of a series",
        {"loss.simclr-baseline": "True", "view.same-place-share": "1", "view.other-series-share": "0"},
    ),
    "masked": Row("PRISM, and hidden patches", {"model.masked-share": "0.5", "loss.w-masked": "0.3"}),
    "mae": Row(
        "masked autoencoder (three quarters hidden)",
        # A quarter of 16 patches would be 4: as many patches a step as the other rows, in fewer and larger views.
        {"model.masked-share": "0.75", "loss.w-masked": "1", "loss.w-supcon-target": "0"}
        | {"data.n-patches": "64", "train.batch-size": "32"}
        # No loss trains its CLS token.
        | {"eval.pooling": "mean"}
        | dict.fromkeys(_HEADS, "0"),
    ),
}
"""By name. The first row is the one that the others are compared with."""
