# SPDX-License-Identifier: Apache-2.0
"""SPAN: the authors' and NTIRE's weights give what they gave, the kernels of training fold, what a new network does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.nn.functional import interpolate, pad  # noqa: E402

from fastsr import convert, executors, load, modelfile  # noqa: E402
from fastsr.errors import InputError, ModelError  # noqa: E402
from fastsr.families.span import SPAN, Wide  # noqa: E402
from fastsr.testing import halves, rng  # noqa: E402
from fastsr.train.recipes.span import write  # noqa: E402


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
    """Through the engine as well, whatever the tiles."""
    path = shared / "checkpoints/ntire_esr/team00_SPAN.pth"
    found = convert.read(path)
    assert (found.name, found.arch, found.config["width"]) == ("span_small_x4", "span", 28)
    with np.load(shared / "checkpoints/golden.npz") as given:
        x, expected = given["input"], given["team00_SPAN"]
    out = [
        executors.get("cpu").prepare(found.plan, found.weights, tile=tile, threads=threads).run(x)
        for tile, threads in ((0, 1), (0, 2), (16, 1))
    ]
    assert np.abs(out[0] - expected).max() <= 2e-5 * np.ptp(expected)
    assert all(other.tobytes() == out[0].tobytes() for other in out)
    model = SPAN.from_state(torch.load(path, map_location="cpu", weights_only=True))
    agrees(model, shared / "checkpoints/golden.npz", "team00_SPAN")
    if halves():
        half = executors.get("cpu").prepare(found.plan, found.weights, precision="bf16").run(x)
        assert -10 * np.log10(np.square(half - expected).mean()) >= 50


def test_kernels_of_the_authors_training_are_multiplied_out(tmp_path: Path) -> None:
    """Their Conv3XC in full: 1 x 1, 3 x 3, 1 x 1 on an image with one pixel of border more, and a 1 x 1 beside them."""
    torch.manual_seed(3)
    state, layers = {}, []
    plain = SPAN(2, 4, 2).double()
    names = [f"block_{i}.c{k}_r" for i in (1, 2) for k in (1, 2, 3)]
    for name in ["conv_1", *names, "conv_2"]:
        ci = 3 if name == "conv_1" else 4
        convs = [nn.Conv2d(ci, 2 * ci, 1), nn.Conv2d(2 * ci, 8, 3), nn.Conv2d(8, 4, 1)]
        beside = nn.Conv2d(ci, 4, 1)
        layers.append((nn.Sequential(*convs).double(), beside.double()))
        state |= {f"{name}.conv.{i}.{k}": v for i, conv in enumerate(convs) for k, v in conv.state_dict().items()}
        state |= {f"{name}.sk.{k}": v for k, v in beside.state_dict().items()}
        state[f"{name}.eval_conv.weight"] = torch.zeros(4, ci, 3, 3)  # of before the training
        state[f"{name}.eval_conv.bias"] = torch.zeros(4)
    for name, conv in (("conv_cat", plain.join), ("upsampler.0", plain.leave)):
        state |= {f"{name}.{k}": v for k, v in conv.state_dict().items()}
    torch.save({"params_ema": state}, tmp_path / "net.pth")
    found = convert.read(tmp_path / "net.pth")
    assert found.config == {"scale": 2, "width": 4, "blocks": 2}
    made = SPAN.from_state(state).double()
    x = torch.rand(1, 4, 6, 5, dtype=torch.float64)
    for (convs, beside), conv in list(zip(layers, (made.enter, *made.body()), strict=True))[1:]:
        expected = convs(pad(x, (1, 1, 1, 1))) + beside(x)
        assert (conv(x) - expected)[..., 1:-1, 1:-1].abs().max() < 1e-6


def test_what_is_no_span_is_refused(tmp_path: Path) -> None:
    state = SPAN(2, 8, 2).state_dict()
    for change, message in (
        ({"no_norm": torch.zeros(1)}, "'no_norm' is one too many"),
        ({"last.weight": torch.zeros(8, 8, 5, 5)}, r"'last.weight' has shape \[8, 8, 5, 5\], expected \[8, 8, 3, 3\]"),
        ({"leave.weight": torch.zeros(10, 8, 3, 3)}, "10 channels before the shuffle are not 3 times a square"),
    ):
        torch.save(state | change, tmp_path / "net.pth")
        with pytest.raises(ModelError, match=f"looks like span but does not fit it: {message}"):
            convert.read(tmp_path / "net.pth")


def test_what_a_training_wrote_becomes_a_model_file(tmp_path: Path) -> None:
    model = Wide(2, 8, 2)
    model.reset(torch.rand(1, 3, 9, 7))
    about = {"name": "span_x2", "arch": "span", "config": model.config, "recipe": {"command": "fastsr train span"}}
    write(tmp_path / "state.safetensors", model, about)
    made = modelfile.read(convert.convert(tmp_path / "state.safetensors", tmp_path / "model.safetensors"))
    assert (made.name, made.meta["licence"]) == ("span_x2", "Apache-2.0")
    assert made.json("recipe") == {"command": "fastsr train span"}
    x = rng(1).random((3, 9, 8), dtype=np.float32)
    with torch.no_grad():
        expected = model.fold()(torch.from_numpy(x)[None])[0].numpy()
    assert np.abs(load(tmp_path / "model.safetensors").run(x) - expected).max() < 1e-5
    with pytest.raises(InputError, match="a model file already"):
        convert.read(tmp_path / "model.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"nonsense")
    with pytest.raises(ModelError, match="not a safetensors file"):
        convert.read(tmp_path / "bad.safetensors")


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
