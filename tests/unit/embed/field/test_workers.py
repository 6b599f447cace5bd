"""Actors are shared out over nodes: each fits on its node, and scarce scans go to where most room is."""

from __future__ import annotations

import pytest

from prism_ssl.embed.field.workers import Seat, seats


@pytest.mark.parametrize(
    ("nodes", "scans", "wanted"),
    [
        ([(4, 0)], 100, [(0, 1, 0)] * 4),
        ([(4, 0)], 2, [(0, 2, 0)] * 2),
        ([(2, 0), (2, 0)], 1, [(0, 2, 0)]),  # not 4 CPUs, which no node has
        ([(8, 0), (2, 0)], 3, [(0, 2, 0)] * 3),
        ([(8, 0), (6, 0)], 2, [(0, 8, 0), (1, 6, 0)]),
        ([(16, 2), (16, 2)], 3, [(0, 8, 1)] * 2 + [(1, 16, 1)]),
        ([(64, 0), (16, 1)], 5, [(1, 16, 1)]),  # where there is a GPU, CPUs alone are too slow to wait for
        ([(0, 0), (1, 0)], 5, [(1, 1, 0)]),
        ([(0, 0)], 5, []),
    ],
)
def test_actors_fit_on_their_nodes(
    nodes: list[tuple[int, int]], scans: int, wanted: list[tuple[int, int, int]]
) -> None:
    found = seats([Seat(f"n{number}", *node) for number, node in enumerate(nodes)], scans)
    assert found == [Seat(f"n{number}", cpus, gpus) for number, cpus, gpus in wanted]
