"""Export the encoder to other runtimes: a ``torch.export`` program, and ONNX; any number of views and of patches."""

from __future__ import annotations

import importlib.util
import io
import logging
import warnings
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import torch
from torch.export import Dim, ExportedProgram

from prism_ssl.contracts import PATCH_PX
from prism_ssl.errors import ConfigError
from prism_ssl.model.backbone import PrismEncoder
from prism_ssl.utils.fs import write_atomic

INPUTS, OUTPUT = ("patches", "positions_mm"), "embedding"
"""Names of the inputs and of the output in a file of ``save_onnx``."""
_VIEWS_MAX, _PATCHES_MAX = 2**16, 2**16


def export_program(encoder: PrismEncoder) -> ExportedProgram:
    """The encoder's graph: patches [B, N, 16, 16, 1] and positions [B, N, 3] -> [B, D], for any B and N from 1 on.

    ``program.module()`` runs it, ``torch.export.save`` writes it; weights and code of this package are not needed then.
    """
    with torch.no_grad():
        return torch.export.export(encoder.eval(), _example(encoder), dynamic_shapes=_any_size())


def save_onnx(encoder: PrismEncoder, path: Path) -> None:
    """Write the encoder as ONNX, for any number of views and patches; weights are inside, so at most 2 GB.

    Inputs and output are named ``INPUTS`` and ``OUTPUT``.

    Raises:
        ConfigError: the packages of the extra ``onnx`` are missing.
    """
    if missing := [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]:
        raise ConfigError(
            f"{' and '.join(missing)} is not installed; make install, or pip install -e '.[onnx]' in the clone"
        )
    names: dict[str, Any] = {"input_names": list(INPUTS), "output_names": [OUTPUT]}
    with torch.no_grad(), warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # of torch's own exporter, about names of axes and its own future
        level = logging.getLogger("torch.onnx").level
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # torchvision is absent, and not needed
        try:
            example, sizes = _example(encoder), _any_size()
            program: Any = torch.onnx.export(encoder.eval(), example, dynamo=True, dynamic_shapes=sizes, **names)
        finally:
            logging.getLogger("torch.onnx").setLevel(level)
    write_atomic(path, program.model_proto.SerializeToString())


def _example(encoder: PrismEncoder) -> tuple[torch.Tensor, torch.Tensor]:
    device = encoder.cls.device
    return torch.zeros(3, 5, PATCH_PX, PATCH_PX, 1, device=device), torch.zeros(3, 5, 3, device=device)


def _any_size() -> tuple[dict[int, Dim], ...]:
    views, patches = Dim("views", min=1, max=_VIEWS_MAX), Dim("patches", min=1, max=_PATCHES_MAX)
    return {0: views, 1: patches}, {0: views, 1: patches}
