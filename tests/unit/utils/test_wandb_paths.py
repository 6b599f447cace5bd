"""The client's files go below the temporary root, whatever the environment said before."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from prism_ssl.utils.wandb_paths import enter_wandb_environment, wandb_environment


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What a user's profile may say, and everything is put back."""
    monkeypatch.setattr(tempfile, "tempdir", tempfile.tempdir)
    for name in wandb_environment(tmp_path):
        monkeypatch.setenv(name, "/home/user/elsewhere")


def test_every_place_is_a_private_folder_below_the_root(tmp_path: Path) -> None:
    import os

    enter_wandb_environment(tmp_path / "root")
    places = {name: Path(value) for name, value in os.environ.items() if name in wandb_environment(tmp_path)}
    folders = {name: path for name, path in places.items() if name.endswith("DIR")}
    assert len(folders) == 6
    for folder in folders.values():
        assert folder.is_relative_to(tmp_path / "root")
        assert folder.stat().st_mode & 0o777 == 0o700
    assert Path(tempfile.gettempdir()) == folders["TMPDIR"]
