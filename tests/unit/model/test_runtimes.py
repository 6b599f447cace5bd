"""The encoder answers alike through every door, for sizes that the export has not seen."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from prism_ssl.config.network import ENCODER_INPUTS
from prism_ssl.model.backbone import EncoderShape, PrismEncoder, build_encoder
from prism_ssl.model.encoder_source import CARD_FILE
from prism_ssl.model.export import save_encoder
from prism_ssl.model.runtimes import export_program

SIZES = ((1, 1), (2, 33), (5, 64))


@pytest.fixture(scope="module", params=[{}, dict.fromkeys(ENCODER_INPUTS, True)], ids=["pixels", "all"])
def encoder(request: pytest.FixtureRequest) -> PrismEncoder:
    torch.manual_seed(0)
    return PrismEncoder(EncoderShape(width=12, depth=2, heads=2, **request.param)).eval()


def views(n_views: int, n_patches: int) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(n_patches)
    patches = torch.rand(n_views, n_patches, 16, 16, 1, generator=g) * 2 - 1
    return patches, 20.0 * torch.randn(n_views, n_patches, 3, generator=g)


def test_a_program_answers_as_the_encoder(encoder: PrismEncoder, tmp_path: Path) -> None:
    torch.export.save(export_program(encoder), tmp_path / "encoder.pt2")
    program = torch.export.load(tmp_path / "encoder.pt2").module()
    for size in SIZES:
        torch.testing.assert_close(program(*views(*size)), encoder(*views(*size)), rtol=0, atol=1e-5)


@pytest.mark.parametrize("inputs", [{}, dict.fromkeys(ENCODER_INPUTS, True)])
def test_a_hub_folder_is_loaded_without_a_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inputs: dict[str, bool]
) -> None:
    pytest.importorskip("huggingface_hub")
    from prism_ssl.model.hub import HubEncoder, save_hub_folder

    def no_network(*given: object) -> None:
        raise AssertionError("a socket was opened")

    torch.manual_seed(1)
    encoder = build_encoder("tiny", inputs).eval()
    save_encoder(encoder, tmp_path, {"preset": "tiny", "n_patches": 64, "patch_mm": 16.0} | inputs)
    (tmp_path / CARD_FILE).write_text("# Encoder of run x\n")
    monkeypatch.setattr("socket.socket.connect", no_network)
    folder = save_hub_folder(tmp_path, tmp_path / "hub")
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors", "README.md"}
    loaded = HubEncoder.from_pretrained(str(folder))
    assert loaded.description["n_patches"] == 64
    assert "# Encoder of run x" in (folder / "README.md").read_text()
    with torch.no_grad():
        assert torch.equal(loaded(*views(2, 33)), encoder(*views(2, 33)))
