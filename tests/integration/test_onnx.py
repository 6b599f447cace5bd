"""The encoder answers alike under onnxruntime, for sizes that the export has not seen."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from prism_ssl.config.network import ENCODER_INPUTS
from prism_ssl.model.backbone import build_encoder
from prism_ssl.model.runtimes import INPUTS, save_onnx
from tests.unit.model.test_runtimes import SIZES, views

pytestmark = pytest.mark.slow  # the exporter of torch takes half a minute


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("inputs", [{}, dict.fromkeys(ENCODER_INPUTS, True)])
def test_onnx_answers_as_the_encoder(tmp_path: Path, inputs: dict[str, bool]) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    encoder = build_encoder("tiny", inputs).eval()
    save_onnx(encoder, tmp_path / "encoder.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "encoder.onnx"), providers=["CPUExecutionProvider"])
    for size in SIZES:
        given = dict(zip(INPUTS, (each.numpy() for each in views(*size)), strict=True))
        (found,) = session.run(None, given)
        torch.testing.assert_close(torch.from_numpy(found), encoder(*views(*size)), rtol=0, atol=1e-4)
