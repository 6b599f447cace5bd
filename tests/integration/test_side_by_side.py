"""Several jobs on one catalogue at once, and one run stopped at random moments: both end as if nothing had happened."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from tests.soak.company import keep_company
from tests.soak.stops import stop_and_go
from tests.soak.world import World
from tests.support.cli_runs import command, only_run, run_to_end
from tests.support.wandb_server import WandbServer

pytestmark = [pytest.mark.slow, pytest.mark.soak]


class Wrong(list[str]):
    """What was not right."""

    def __call__(self, right: bool, text: str) -> None:
        if not right:
            self.append(text)


@pytest.fixture
def world(tmp_path: Path, wandb_server: WandbServer) -> World:
    return World(tmp_path / "world", wandb_server)


def test_two_runs_a_sweep_and_an_embedding_job_share_a_catalogue(world: World, tmp_path: Path) -> None:
    code, output = run_to_end(command(tmp_path, data__catalog_path=world.catalog, train__max_steps=5))
    assert code == 0, output
    wrong = Wrong()
    keep_company(world, only_run(tmp_path), number=1, rng=Random(0), check=wrong)
    assert wrong == []


def test_a_run_stopped_at_random_moments_has_the_totals_of_an_unbroken_one(world: World) -> None:
    wrong = Wrong()
    told = list(stop_and_go(world, stops=4, rng=Random(0), check=wrong))
    assert wrong == [], told
