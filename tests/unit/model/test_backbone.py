"""Laws of the encoder: where patches lie matters, in which order they come does not."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from prism_ssl.model.backbone import (
    PRESETS,
    EncoderShape,
    PositionFeatures,
    PrismEncoder,
    Rotary3d,
    RotaryAttention,
    build_encoder,
    normalized,
    rotate,
)


def _views(n_views: int = 3, n_patches: int = 7) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return torch.rand(n_views, n_patches, 16, 16, 1) * 2 - 1, 15.0 * torch.randn(n_views, n_patches, 3)


def _small_encoder() -> PrismEncoder:
    torch.manual_seed(1)
    return PrismEncoder(EncoderShape(width=48, depth=3, heads=3))


def _scores(positions_mm: torch.Tensor, head_dim: int = 26) -> torch.Tensor:
    """Attention scores [1, 2, T, T] of fixed random queries and keys at ``positions_mm`` [1, T, 3], float64 sums."""
    g = torch.Generator().manual_seed(2)
    n = positions_mm.shape[1]
    q, k = torch.randn(1, 2, n, head_dim, generator=g), torch.randn(1, 2, n, head_dim, generator=g)
    cos, sin = Rotary3d(head_dim)(positions_mm)
    return rotate(q, cos, sin).double() @ rotate(k, cos, sin).double().transpose(-1, -2)


def test_normalized_patches_do_not_see_another_brightness_and_contrast_and_two_numbers_do() -> None:
    pixels = torch.rand(2, 5, 256, generator=torch.Generator().manual_seed(4)) - 0.5
    told, other = normalized(pixels), normalized(0.5 * pixels + 0.3)
    mean, std = pixels.numpy().mean(axis=2), pixels.numpy().std(axis=2)
    assert told[:, :, 256].numpy() == pytest.approx(4 * mean, abs=1e-5)
    assert told[:, :, 257].numpy() == pytest.approx(4 * np.log(std + 0.02) + 8, abs=1e-4)
    assert told[:, :, :256].numpy() == pytest.approx(
        (pixels.numpy() - mean[..., None]) / (std + 0.02)[..., None], abs=1e-4
    )
    torch.testing.assert_close(other[:, :, :256], told[:, :, :256], rtol=0.1, atol=0.1)  # up to the flat patch's spread
    torch.testing.assert_close(other[:, :, 256], 0.5 * told[:, :, 256] + 1.2, rtol=0, atol=1e-5)
    air = torch.zeros(1, 1, 256, requires_grad=True)
    normalized(air).sum().backward()
    assert air.grad is not None
    assert torch.isfinite(air.grad).all()


def test_an_encoder_of_normalized_patches_hardly_sees_the_contrast_of_a_window() -> None:
    patches, positions_mm = _views()
    torch.manual_seed(1)
    encoder = PrismEncoder(EncoderShape(width=48, depth=3, heads=3, normalize_patches=True)).eval()
    with torch.no_grad():
        encoder.patch_embedding.weight[:, 256:] = 0.0  # blind to the two numbers
        seen, darker = (encoder(each, positions_mm) for each in (patches, 0.9 * patches - 0.05))
        plain = [_small_encoder().eval()(each, positions_mm) for each in (patches, 0.9 * patches - 0.05)]
    assert (seen - darker).abs().max() < 0.1 * (plain[0] - plain[1]).abs().max()


def test_only_with_position_features_does_a_mean_of_tokens_say_where_the_patches_lie() -> None:
    patches, positions_mm = _views()
    moved = positions_mm + torch.tensor([5.0, 0.0, -3.0])
    for placed in (False, True):
        torch.manual_seed(1)
        shape = EncoderShape(width=48, depth=3, heads=3, position_features=placed)
        encoder = PrismEncoder(shape).eval()
        with torch.no_grad():
            for name, weight in encoder.named_parameters():
                if "attention.query" in name:
                    weight.zero_()  # attention then is the mean of all tokens, wherever they lie
            told, elsewhere = encoder(patches, positions_mm), encoder(patches, moved)
        assert torch.allclose(told, elsewhere, atol=1e-6) is not placed


def test_position_features_are_a_linear_map_of_coordinates_sines_and_cosines() -> None:
    features, at_mm = PositionFeatures(5), np.array([3.0, -7.5, 21.0])
    angles = np.array([2 * np.pi * x / wavelength for x in at_mm for wavelength in (16, 32, 64, 128, 256)])
    inputs = np.concatenate([np.sin(angles), np.cos(angles), at_mm / 20.0])
    wanted = features.weight.detach().numpy() @ inputs + features.bias.detach().numpy()
    found = features(torch.tensor(at_mm[None, None]).float())[0, 0].detach().numpy()
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_position_zero_rotates_nothing() -> None:
    x = torch.randn(2, 4, 5, 32)
    torch.testing.assert_close(rotate(x, *Rotary3d(32)(torch.zeros(2, 5, 3))), x, rtol=0, atol=0)


def test_shifting_all_patches_leaves_their_scores_unchanged() -> None:
    positions_mm = 20.0 * torch.randn(1, 9, 3)
    shift_mm = torch.tensor([13.7, -101.3, 0.9])
    torch.testing.assert_close(_scores(positions_mm + shift_mm), _scores(positions_mm), rtol=0, atol=2e-3)
    assert (_scores(positions_mm * 1.1) - _scores(positions_mm)).abs().max() > 1.0


def test_rotation_keeps_lengths() -> None:
    x = torch.randn(2, 3, 6, 32)
    turned = rotate(x, *Rotary3d(32)(30.0 * torch.randn(2, 6, 3)))
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_each_axis_turns_its_own_third_of_the_pairs(axis: int) -> None:
    position_mm = torch.zeros(1, 1, 3)
    position_mm[0, 0, axis] = 5.0
    cos, _ = Rotary3d(64)(position_mm)
    turned = (cos[..., :30].reshape(3, 10) - 1.0).abs().amax(dim=1) > 0.1
    assert turned.tolist() == [axis == other for other in range(3)]


def _rotate_by_halves(x: torch.Tensor, positions_mm: torch.Tensor) -> torch.Tensor:
    """As the encoder did until November 2026, with tables of F angles."""
    angles = (positions_mm.unsqueeze(-1) * Rotary3d(x.shape[-1]).frequencies).flatten(-2).unsqueeze(1)
    cos, sin, pairs = angles.cos(), angles.sin(), angles.shape[-1]
    first, second, rest = x[..., :pairs], x[..., pairs : 2 * pairs], x[..., 2 * pairs :]
    turned = torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
    return torch.cat([turned.to(x.dtype), rest], dim=-1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("head_dim", [6, 32, 64])
def test_whole_channels_are_rotated_to_the_bits_of_their_halves(head_dim: int, dtype: torch.dtype) -> None:
    x = torch.randn(2, 3, 9, head_dim).to(dtype).requires_grad_()
    positions_mm, weights = 30.0 * torch.randn(2, 9, 3), torch.randn(2, 3, 9, head_dim).to(dtype)
    ways = (rotate(x, *Rotary3d(head_dim)(positions_mm)), _rotate_by_halves(x, positions_mm))
    results = [(turned, *torch.autograd.grad(turned, x, weights)) for turned in ways]
    for whole, halves in zip(*results, strict=True):
        assert whole.dtype == halves.dtype == dtype
        assert torch.equal(whole, halves)


def test_channels_left_over_are_not_rotated() -> None:
    x = torch.randn(1, 1, 4, 64)  # 10 pairs per axis: 60 channels turn, 4 stay
    turned = rotate(x, *Rotary3d(64)(30.0 * torch.randn(1, 4, 3)))
    assert torch.equal(turned[..., 60:], x[..., 60:])
    assert not torch.any(turned[..., :60] == x[..., :60])


def test_wavelengths_are_geometric_from_4_to_512_mm() -> None:
    wavelengths_mm = 2 * math.pi / Rotary3d(64).frequencies.double()
    ratios = wavelengths_mm[1:] / wavelengths_mm[:-1]
    torch.testing.assert_close(wavelengths_mm[[0, -1]], torch.tensor([4.0, 512.0]).double(), rtol=1e-6, atol=0)
    torch.testing.assert_close(ratios, ratios[:1].expand(9), rtol=1e-5, atol=0)


def test_a_full_wavelength_is_no_rotation() -> None:
    cos, sin = Rotary3d(6)(torch.tensor([[[4.0, 8.0, 2.0]]]))
    torch.testing.assert_close(cos.flatten(), torch.tensor([1.0, 1.0, -1.0] * 2))
    torch.testing.assert_close(sin.flatten(), torch.zeros(6), rtol=0, atol=1e-5)


def test_rotary_table_is_float32_under_autocast_and_rotation_keeps_the_dtype() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cos, sin = Rotary3d(32)(torch.randn(1, 3, 3))
    assert (cos.dtype, sin.dtype) == (torch.float32, torch.float32)
    assert rotate(torch.randn(1, 1, 3, 32, dtype=torch.bfloat16), cos, sin).dtype == torch.bfloat16


def test_a_head_too_narrow_for_three_axes_is_refused() -> None:
    with pytest.raises(ValueError, match="5 channels, 6 needed"):
        Rotary3d(5)
    with pytest.raises(ValueError, match="width 10 is not a multiple of 4 heads"):
        EncoderShape(width=10, depth=1, heads=4)


def test_attention_equals_softmax_written_out() -> None:
    torch.manual_seed(3)
    attention = RotaryAttention(width=24, heads=2).double()
    tokens, table = torch.randn(2, 5, 24).double(), Rotary3d(12)(10.0 * torch.randn(2, 5, 3))
    cos, sin = (t.double() for t in table)

    def heads(x: torch.Tensor) -> torch.Tensor:
        return torch.stack([x[..., :12], x[..., 12:]], dim=1)

    key, value = attention.key_value(tokens).chunk(2, dim=-1)
    query, key = rotate(heads(attention.query(tokens)), cos, sin), rotate(heads(key), cos, sin)
    weights = (query @ key.transpose(-1, -2) / math.sqrt(12)).softmax(dim=-1)
    first, second = (weights @ heads(value)).unbind(1)
    expected = attention.out(torch.cat([first, second], dim=-1))
    torch.testing.assert_close(attention(tokens, tokens, cos, sin), expected)


def test_reading_cls_alone_equals_cls_of_the_whole_block() -> None:
    block = _small_encoder().blocks[0]
    tokens, (cos, sin) = torch.randn(2, 6, 48), Rotary3d(16)(10.0 * torch.randn(2, 6, 3))
    torch.testing.assert_close(block(tokens, cos, sin, n_read=1), block(tokens, cos, sin)[:, :1])


def test_patch_tokens_come_on_request_and_follow_their_patches() -> None:
    encoder, (patches, positions_mm) = _small_encoder(), _views()
    embedding, tokens = encoder(patches, positions_mm, return_patches=True)
    assert tokens.shape == (3, 7, 48)
    torch.testing.assert_close(embedding, encoder(patches, positions_mm))
    order = torch.randperm(7)
    _, reordered = encoder(patches[:, order], positions_mm[:, order], return_patches=True)
    torch.testing.assert_close(reordered, tokens[:, order], rtol=1e-4, atol=1e-5)
    assert (tokens[:, 0] - tokens[:, 1]).abs().max() > 1e-2


def test_order_of_patches_does_not_matter() -> None:
    encoder, (patches, positions_mm) = _small_encoder(), _views()
    order = torch.randperm(7)
    torch.testing.assert_close(
        encoder(patches[:, order], positions_mm[:, order]), encoder(patches, positions_mm), rtol=1e-4, atol=1e-5
    )


def test_position_of_a_patch_matters() -> None:
    encoder, (patches, positions_mm) = _small_encoder(), _views()
    moved = positions_mm + torch.tensor([8.0, 0.0, 0.0])
    assert (encoder(patches, moved) - encoder(patches, positions_mm)).abs().max() > 1e-3


def test_views_do_not_see_each_other() -> None:
    encoder, (patches, positions_mm) = _small_encoder(), _views()
    torch.testing.assert_close(encoder(patches, positions_mm)[1:2], encoder(patches[1:2], positions_mm[1:2]))


def test_gradients_reach_every_parameter() -> None:
    encoder = _small_encoder()
    encoder(*_views()).square().sum().backward()
    assert [name for name, p in encoder.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_presets_have_the_sizes_of_vit() -> None:
    sizes = {name: (s.width, s.depth, s.heads) for name, s in PRESETS.items()}
    assert sizes["small"] == (384, 12, 6)
    assert sizes["base"] == (768, 12, 12)
    assert sizes["large"] == (1024, 24, 16)
    with torch.device("meta"):
        large = sum(p.numel() for p in build_encoder("large").parameters())
    assert large == pytest.approx(303e6, rel=0.01)


def test_one_seed_gives_one_encoder() -> None:
    torch.manual_seed(5)
    first = build_encoder("tiny")
    torch.manual_seed(5)
    second = build_encoder("tiny")
    assert first.width == 128
    assert all(torch.equal(p, q) for p, q in zip(first.parameters(), second.parameters(), strict=True))


def test_embedding_under_bfloat16_stays_near_float32() -> None:
    encoder, (patches, positions_mm) = _small_encoder(), _views()
    exact = encoder(patches, positions_mm)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = encoder(patches, positions_mm)
    assert (rounded - exact).abs().max() < 0.1
