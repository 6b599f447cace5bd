"""An encoder of any recipe finds the views that it was trained on."""

from __future__ import annotations

import pytest

from prism_ssl.config.defaults import RECIPES, apply_overrides, study
from prism_ssl.config.schema import DataConfig
from prism_ssl.embed.weights import PixelFiles, embed_config
from prism_ssl.errors import CheckpointError

MASKED = {"model.masked_share": 0.75, "loss.w_masked": 1.0}


@pytest.mark.parametrize("recipe", [*RECIPES, "masked"])
def test_the_views_are_those_of_the_training(recipe: str) -> None:
    trained = apply_overrides(study(), MASKED) if recipe == "masked" else RECIPES[recipe]()
    told = {"n_patches": 7, "patch_mm": 3.0, "config": trained.to_dict()}
    config = embed_config(PixelFiles(told), DataConfig(catalog_path="catalog.csv"))
    assert (config.view, config.train.precision) == (trained.view, trained.train.precision)
    assert (config.data.catalog_path, config.data.n_patches, config.data.patch_mm) == ("catalog.csv", 7, 3.0)
    with pytest.raises(CheckpointError, match=r"encoder\.json lacks 'config'"):
        embed_config(PixelFiles({"n_patches": 7, "patch_mm": 3.0}), DataConfig(catalog_path="catalog.csv"))
