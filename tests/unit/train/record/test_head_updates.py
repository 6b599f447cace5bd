"""A head that trains is told from one that does not."""

from __future__ import annotations

import pytest
import torch

from prism_ssl.train.record.head_updates import HeadUpdates


def test_an_update_is_the_change_since_the_last_row_relative_to_the_norm_before() -> None:
    head = torch.nn.Linear(2, 1)
    head.load_state_dict({"weight": torch.tensor([[3.0, 0.0]]), "bias": torch.tensor([4.0])})
    updates = HeadUpdates({"rotation": head, "supcon": torch.nn.Linear(2, 2)})
    with torch.no_grad():
        head.bias.add_(1.0)
    assert {name: value.item() for name, value in updates.row().items()} == pytest.approx(
        {"update/rotation": 1 / 5, "update/supcon": 0.0}
    )
    assert updates.row()["update/rotation"].item() == 0.0


def test_the_smallest_change_that_float32_knows_is_not_frozen() -> None:
    head = torch.nn.Linear(64, 64)
    updates = HeadUpdates({"rotation": head})
    with torch.no_grad():
        head.weight[0, 0] = torch.nextafter(head.weight[0, 0], torch.tensor(9.0))
    assert updates.row()["update/rotation"].item() > 0.0
