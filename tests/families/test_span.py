# SPDX-License-Identifier: Apache-2.0
"""SPAN: the authors' and NTIRE's weights give what they gave, the kernels of training fold, what a new network does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch.nn.functional import interpolate  # noqa: E402

from fastsr.families.span import SPAN, Wide  # noqa: E402


def put(model: SPAN, layers: list[tuple[np.ndarray, np.ndarray]]) -> None:
    """Give the convolutions, in order, these weights and biases."""
    convs = (model.enter, *model.body(), model.join, model.leave)
    with torch.no_grad():
        for conv, (w, b) in zip(convs, layers, strict=True):
            conv.weight.copy_(torch.tensor(w).reshape(conv.weight.shape))
            conv.bias.copy_(torch.tensor(b))


def agrees(model: SPAN, golden: Path, name: str) -> None:
    with np.load(golden) as given, torch.no_grad():
        out = model(torch.from_numpy(given["input"])[None])[0].numpy()
        assert np.abs(out - given[name]).max() < 2e-5


def test_the_network_of_28_channels_gives_what_it_gave(shared: Path) -> None:
    saved = torch.load(shared / "checkpoints/ntire_esr/team00_SPAN.pth", map_location="cpu", weights_only=True)
    blocks = [f"block_{i}.c{k}_r.eval_conv" for i in range(1, 7) for k in (1, 2, 3)]
    names = ["conv_1.eval_conv", *blocks, "conv_2.eval_conv", "conv_cat", "upsampler.0"]
    model = SPAN(4, 28)
    put(model, [(saved[f"{name}.weight"].numpy(), saved[f"{name}.bias"].numpy()) for name in names])
    agrees(model, shared / "checkpoints/golden.npz", "team00_SPAN")


@pytest.mark.parametrize("scale", [2, 4])
def test_the_authors_networks_of_48_channels_give_what_they_gave(scale: int, shared: Path) -> None:
    """ncnn's file: the mean colour, then per convolution a tag, half floats, and the bias in float32."""
    content = (shared / f"checkpoints/ncnn/spanx{scale}_ch48.bin").read_bytes()
    model = SPAN(scale)
    assert np.allclose(np.frombuffer(content, np.float32, 3), model.mean.flatten(), atol=1e-6)
    at, layers = 12, []
    for conv in (model.enter, *model.body(), model.join, model.leave):
        assert content[at : at + 4] == bytes.fromhex("476b3001")
        w = np.frombuffer(content, np.float16, conv.weight.numel(), at + 4).astype(np.float32)
        at += 4 + (2 * w.size + 3) // 4 * 4
        layers.append((w, np.frombuffer(content, np.float32, conv.out_channels, at)))
        at += 4 * conv.out_channels
    assert at == len(content)
    put(model, layers)
    agrees(model, shared / "checkpoints/golden.npz", f"spanx{scale}_ch48")


def test_the_parameters_are_counted() -> None:
    for scale, width in ((2, 48), (3, 28)):
        body = 19 * (9 * width * width + width)
        ends = 28 * width + 4 * width * width + width + (9 * width + 1) * 3 * scale**2
        assert sum(p.numel() for p in SPAN(scale, width).parameters()) == body + ends


@pytest.mark.parametrize("width", [6, 8])
def test_the_kernels_of_training_fold(width: int) -> None:
    """The product's kernels in plain convolutions, without the channels filled up, compute the same in float64."""
    torch.manual_seed(0)
    x = torch.rand(2, 3, 9, 7, dtype=torch.float64)
    model = Wide(3, width, 2).double()
    model.reset(x)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.01 * torch.randn_like(parameter)
        plain = model.fold().double()
        for conv, (w, b) in zip((plain.enter, *plain.body(), plain.join, plain.leave), model.layers(), strict=True):
            conv.weight.copy_(w)
            conv.bias.copy_(b)
        assert (model(x) - plain(x)).abs().max() < 1e-12
        w = torch.einsum("op,pkq,qi->oik", model.contract[1], model.conv[1].unflatten(1, (9, -1)), model.expand[1])
        w[:, :, 4] += model.skip[1]
        assert torch.allclose(plain.blocks[0].c2.weight.flatten(2), w, atol=1e-14)


def test_a_new_network_enlarges_and_its_features_have_one_level() -> None:
    torch.manual_seed(0)
    x = interpolate(torch.rand(2, 3, 6, 6), size=24, mode="bicubic").clamp(0, 1)
    model = Wide(2, 16)
    model.reset(x)
    with torch.no_grad():
        inner = (slice(None), slice(None), slice(4, -4), slice(4, -4))  # linear has another border
        large = interpolate(x, scale_factor=2, mode="bilinear")
        assert (model(x) - large)[inner].abs().mean() < 0.1
        model.join.weight[3:] = 0
        assert (model(x) - large)[inner].abs().max() < 1e-5
        last = model.layers()[-4]
        assert 0.01 < last[0].std() < 10


def test_another_scale_starts_from_what_is_known() -> None:
    torch.manual_seed(0)
    x = interpolate(torch.rand(1, 3, 5, 5), size=20, mode="bicubic").clamp(0, 1)
    known, model = Wide(2, 8, 2), Wide(4, 8, 2)
    known.reset(x)
    assert model.take(known.state_dict(), 2) == len(known.state_dict())
    with torch.no_grad():
        assert torch.equal(model(x)[..., ::2, ::2], known(x))


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="scale 5"):
        SPAN(5)
    with pytest.raises(ValueError, match="0 blocks"):
        SPAN(2, blocks=0)
