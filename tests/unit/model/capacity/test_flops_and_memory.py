"""The arithmetic and the memory of a step are what torch counts and keeps."""

from __future__ import annotations

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from prism_ssl.config.defaults import betty_baseline, phantom_cpu
from prism_ssl.config.network import Objective
from prism_ssl.config.schema import Precision
from prism_ssl.model import backbone
from prism_ssl.model.backbone import EncoderShape, PrismEncoder
from prism_ssl.model.capacity.flops import pair_flops, step_flops
from prism_ssl.model.capacity.measured import step_config
from prism_ssl.model.capacity.memory import INPUT_BYTES, KEPT_BYTES, gpu_memory
from prism_ssl.model.network import build_network
from tests.support.model_batches import random_batch


@pytest.mark.parametrize("objective", ["regression", "classification"])
@pytest.mark.parametrize("n_patches", [5, 48])
@pytest.mark.parametrize("masked_share", [0.0, 0.75])
def test_a_pair_costs_what_torch_counts(n_patches: int, objective: Objective, masked_share: float) -> None:
    masked = {"model__masked_share": masked_share, "loss__w_masked": float(masked_share > 0)}
    config = step_config(phantom_cpu(), "tiny", 2, n_patches, model__objective=objective, **masked)
    network, batch = build_network(config.model), random_batch(n_pairs=1, n_patches=n_patches)
    plainly = sdpa_kernel(SDPBackend.MATH)  # torch does not count the fused attention of a CPU
    with torch.no_grad(), FlopCounterMode(display=False) as counter, plainly:
        network(batch.patches_a, batch.positions_a, batch.patches_b, batch.positions_b)
    assert counter.get_total_flops() == pair_flops(config)


def test_a_vit_large_costs_six_operations_a_weight_and_token_and_its_attention() -> None:
    config = step_config(betty_baseline(), "large", 64, 1024)
    tokens, weights = 128 * 1025, 303e6
    attention = 12 * 24 * 1024 * 1025 * tokens
    assert step_flops(config) == pytest.approx(6 * weights * tokens + attention, rel=0.05)


def _kept_bytes(precision: Precision, depth: int, checkpointing: bool) -> int:
    encoder, batch = PrismEncoder(EncoderShape(192, depth, 3)), random_batch(n_pairs=4, n_patches=127)
    encoder.checkpointing = checkpointing
    seen: dict[int, int] = {}

    def keep(x: torch.Tensor) -> torch.Tensor:
        seen[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        alive.append(x)
        return x

    alive: list[torch.Tensor] = []
    half = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16")
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x), half:
        encoder(batch.patches_a, batch.positions_a)
    weights = {weight.untyped_storage().data_ptr() for weight in encoder.parameters()}
    return sum(size for place, size in seen.items() if place not in weights)


@pytest.fixture
def blocks_as_on_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """Autocast computes norms in float32 and attention in bfloat16 on CUDA; on a CPU it is the other way round."""
    norm = torch.nn.functional.layer_norm
    monkeypatch.setattr(torch.nn.functional, "layer_norm", lambda x, *more: norm(x.float(), *more))
    monkeypatch.setattr(backbone, "_attend", torch.nn.functional.scaled_dot_product_attention)


@pytest.mark.usefixtures("blocks_as_on_cuda")
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_block_keeps_for_its_backward_pass_what_the_plan_says(precision: Precision, checkpointing: bool) -> None:
    kept = _kept_bytes(precision, 4, checkpointing) - _kept_bytes(precision, 3, checkpointing)
    if precision == "bf16" and not checkpointing:
        kept -= 2 * 12 * 192**2  # the weights in bfloat16, which the plan counts as weights
    planned = INPUT_BYTES[precision] if checkpointing else KEPT_BYTES[precision]
    assert kept / (4 * 128 * 192) == pytest.approx(planned, rel=0.03)


def test_parts_and_checkpointing_lower_the_plan_and_leave_the_weights_and_muon_lowers_these() -> None:
    whole = gpu_memory(step_config(betty_baseline(), "large", 64, 1024))
    assert whole.weights == pytest.approx(18 * 307e6, rel=0.1)
    parts = gpu_memory(step_config(betty_baseline(), "large", 64, 1024, train__grad_accumulation=4))
    assert (parts.weights, parts.activations) == (whole.weights, whole.activations // 4)
    muon = gpu_memory(step_config(betty_baseline(), "large", 64, 1024, train__muon_lr=0.01))
    assert muon.weights == whole.weights - 4 * 24 * 12 * 1024**2  # one moment less for the matrices of 24 blocks
    again = gpu_memory(step_config(betty_baseline(), "large", 64, 1024, model__activation_checkpointing=True))
    assert again.activations < 0.1 * whole.activations
    masked = {"model__masked_share": 0.75, "loss__w_masked": 1.0}
    quarter = gpu_memory(step_config(betty_baseline(), "large", 64, 1024, **masked))
    decoder = 128 * 1025 * 512 * 2 * KEPT_BYTES["bf16"]
    assert quarter.activations == pytest.approx(whole.activations / 4 * 24 / 23 + decoder, rel=0.02)
