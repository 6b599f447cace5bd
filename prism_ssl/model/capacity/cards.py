"""GPUs by name: peak of dense bf16 arithmetic, and memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from prism_ssl.errors import ConfigError


@dataclass(frozen=True)
class Card:
    """A GPU. ``peak_flops`` is dense bf16 with float32 sums, a second: data sheets print twice that, with sparsity."""

    name: str
    peak_flops: float
    memory_bytes: int
    source: str


CARDS: Final[tuple[Card, ...]] = (
    Card("B200", 2250e12, 180 * 10**9, "NVIDIA HGX B200: 4,500 TFLOPS sparse; DGX B200: 1,440 GB for eight"),
    Card("H200", 989e12, 141 * 10**9, "NVIDIA H200 data sheet: 1,979 TFLOPS sparse (SXM)"),
    Card("H100 PCIe", 756e12, 80 * 10**9, "NVIDIA H100 data sheet: 1,513 TFLOPS sparse (PCIe)"),
    Card("H100", 989e12, 80 * 10**9, "NVIDIA H100 data sheet: 1,979 TFLOPS sparse (SXM)"),
    Card("A100", 312e12, 80 * 10**9, "NVIDIA A100 data sheet: 312 TFLOPS dense; there is one of 40 GB"),
    Card("L40S", 362e12, 48 * 10**9, "NVIDIA L40S data sheet: 733 TFLOPS sparse"),
    Card("RTX 4090", 165e12, 24 * 10**9, "NVIDIA Ada GPU architecture, appendix A: 165.2 TFLOPS dense"),
)
"""Of two names that fit, the earlier counts."""


def find_card(device_name: str) -> Card | None:
    """The card that torch calls ``device_name``; None for an unknown one, such as a slice of a card (MIG)."""
    said = device_name.lower().replace("-", " ").split()
    if {"mig", "nvl"} & set(said):  # of an NVL card the peak is lower, and not in the table
        return None
    return next((card for card in CARDS if set(card.name.lower().split()) <= set(said)), None)


def card_named(name: str) -> Card:
    """The card of the table, however it is spelt; raises ``ConfigError``."""
    plain = name.lower().replace(" ", "").replace("-", "").replace("_", "")
    for card in CARDS:
        if card.name.lower().replace(" ", "") == plain or card.name.lower().split()[-1] == plain:
            return card
    known = ", ".join(card.name.lower().replace(" ", "-") for card in CARDS)
    raise ConfigError(f"no GPU called {name!r} is known; needed: one of {known}")
