"""Training steps on one cached batch: times, arithmetic, memory, first step."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from prism_ssl.config.schema import PrismConfig
from prism_ssl.contracts import PATCH_PX, PrismBatch
from prism_ssl.model.backbone import PRESETS, Rotary3d, rotate
from prism_ssl.model.capacity.cards import Card
from prism_ssl.model.capacity.measured import StepRow
from prism_ssl.model.capacity.memory import gpu_memory
from prism_ssl.model.network import PrismNet
from prism_ssl.train.learner import Learner
from prism_ssl.train.record.step_clock import step_clock
from prism_ssl.utils.time import Stopwatch
from tune.bench.device import forget, peak_bytes, problem_of, settle

_WARMUP = 3  # after the first step: autotuning, and the allocator finds its sizes


def measure_steps(config: PrismConfig, device: torch.device, card: Card | None, repeats: int) -> StepRow:
    """``repeats`` steps after warm-up; a row with ``problem`` where they fail, as where the memory does not do."""
    try:
        return _measured(config, device, card, repeats)
    except Exception as error:  # noqa: BLE001  edge of a bench: the rows before are kept
        return _row(config, device, problem=problem_of(error))
    finally:
        forget(device)


def _measured(config: PrismConfig, device: torch.device, card: Card | None, repeats: int) -> StepRow:
    learner, batch = Learner(config, device), random_pairs(config.train.batch_size, config.data.n_patches, device)
    watch = Stopwatch()
    learner.step(batch, 0)
    settle(device)
    first_step_s = watch.ms() / 1e3
    for step in range(_WARMUP):
        learner.step(batch, step)
    settle(device)
    clock = step_clock(device)
    for step in range(repeats):
        learner.step(batch, step)
        clock.end_step()
    steps_ms = [step.ms for step in clock.settled()]
    peak = peak_bytes(device)
    median_ms, p90_ms, p99_ms = (float(np.percentile(steps_ms, percent)) for percent in (50, 90, 99))
    flops = counted_flops(learner.network, config, device)
    rotary_ms = _rotary_ms(config, device)
    return _row(
        config,
        device,
        step_ms_median=median_ms,
        step_ms_p90=p90_ms,
        step_ms_p99=p99_ms,
        first_step_s=first_step_s,
        patches_per_s=2e3 * config.train.batch_size * config.data.n_patches / median_ms,
        flops=flops,
        mfu=flops / (median_ms / 1e3) / card.peak_flops if card else None,
        peak_bytes=peak,
        rotary_share=rotary_ms / median_ms,
        attention=attention_backend(config, device),
    )


def _row(config: PrismConfig, device: torch.device, **measured: object) -> StepRow:
    model = config.model
    settings = model.preset, config.train.batch_size, config.data.n_patches
    compiled = model.compile and device.type == "cuda"
    planned = gpu_memory(config).total
    how = {"precision": config.train.precision, "muon": config.train.muon_lr is not None}
    values: dict[str, object] = {"planned_bytes": planned, **how, **measured}
    make: Callable[..., StepRow] = StepRow
    return make(*settings, compiled, model.activation_checkpointing, **values)


def random_pairs(B: int, N: int, device: torch.device) -> PrismBatch:
    """Pairs of noise on the device, each of a series of its own."""
    generator = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(device)

    labels, delta_mm = torch.arange(B).to(device), 30.0 * noise(B, 3)
    center_a_mm = 100.0 * noise(B, 3)
    return PrismBatch(
        patches_a=noise(B, N, PATCH_PX, PATCH_PX, 1).clamp(-1, 1),
        positions_a=12.0 * noise(B, N, 3),
        patches_b=noise(B, N, PATCH_PX, PATCH_PX, 1).clamp(-1, 1),
        positions_b=12.0 * noise(B, N, 3),
        center_distance_mm=delta_mm.norm(dim=1),
        center_delta_mm=delta_mm,
        rotation_delta_deg=5.0 * noise(B, 3),
        window_delta=100.0 * noise(B, 2),
        intensity_scale=100.0 + noise(B).abs(),
        series_label=labels,
        subject_label=labels,
        center_a_mm=center_a_mm,
        center_b_mm=center_a_mm + delta_mm,
        rotation_a_deg=5.0 * noise(B, 3),
        window_a=100.0 * noise(B, 2),
        window_known=torch.ones(B, dtype=torch.bool, device=device),
        scan_id=[],
        series_id=[],
        visits=[],
    )


def counted_flops(network: PrismNet, config: PrismConfig, device: torch.device) -> float:
    """Operations of a step as in ``model.capacity.flops``: torch's count of one pair's forward pass, times 3 B."""
    pair = random_pairs(1, config.data.n_patches, device)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        network(pair.patches_a, pair.positions_a, pair.patches_b, pair.positions_b)
    return 3.0 * config.train.batch_size * float(counter.get_total_flops())


def _heads(config: PrismConfig, device: torch.device) -> torch.Tensor:
    """Queries of a step, [2B, A, T, C], as the attention gets them."""
    shape, views = PRESETS[config.model.preset], 2 * config.train.batch_size
    half = device.type == "cuda" and config.train.precision == "bf16"
    by_token = (views, config.data.n_patches + 1, shape.heads, shape.width // shape.heads)
    return torch.randn(*by_token, device=device, dtype=torch.bfloat16 if half else torch.float32).transpose(1, 2)


def attention_backend(config: PrismConfig, device: torch.device) -> str:
    """The implementation that torch takes for the attention of a step."""
    q = _heads(config, device).requires_grad_()
    return SDPBackend(torch._fused_sdp_choice(q, q, q)).name.lower()


def _rotary_ms(config: PrismConfig, device: torch.device, repeats: int = 5) -> float:
    """Time to rotate queries and keys of all blocks, forward and backward, alone."""
    x = _heads(config, device).requires_grad_()
    positions_mm = 12.0 * torch.randn(x.shape[0], x.shape[2], 3, device=device)
    cos, sin = Rotary3d(x.shape[3]).to(device)(positions_mm)
    turn = torch.compile(rotate) if config.model.compile and device.type == "cuda" else rotate
    gradient = torch.randn_like(x)
    torch.autograd.grad(turn(x, cos, sin), x, gradient)
    settle(device)
    clock = step_clock(device)
    for _ in range(repeats):
        torch.autograd.grad(turn(x, cos, sin), x, gradient)
        clock.end_step()
    return 2 * PRESETS[config.model.preset].depth * float(np.median([step.ms for step in clock.settled()]))
