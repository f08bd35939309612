# SPDX-License-Identifier: Apache-2.0
"""Training in pieces, on any device: the sampler against plain crops, stopping and going on, losses that are no numbers."""

from __future__ import annotations

import json
import math
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

torch = pytest.importorskip("torch")

from PIL import Image  # noqa: E402

from fastsr import modelfile  # noqa: E402
from fastsr.cli import cli  # noqa: E402
from fastsr.errors import DeviceError, InputError, ModelError  # noqa: E402
from fastsr.train import device, patches, run  # noqa: E402
from fastsr.train.loop import Schedule, State, slim, train  # noqa: E402
from fastsr.train.pool import Images, Pool, of_pairs, sample  # noqa: E402

TINY = {"width": 8, "bottleneck": 4, "low": 1, "high": 1}
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for i in range(2):
        coarse = Image.fromarray(rng.integers(0, 256, (20, 22, 3), dtype=np.uint8))
        coarse.resize((90, 80 + i), Image.Resampling.BICUBIC).save(folder / f"{i}.png")
    return folder


def btsrn(pictures: Path, work: Path, **options):
    given = {"scale": 3, "data": [pictures], "config": TINY, "device": "cpu", "progress": lambda s: None}
    return run("btsrn", **given | {"work": work, "out": work / "made.safetensors"} | options)


@pytest.mark.parametrize("factor", [1, 3])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16])
def test_a_batch_is_the_crops_that_slicing_gives(factor: int, dtype: torch.dtype) -> None:
    rng = np.random.default_rng(factor)
    pool = Pool(factor, Images(2, dtype), Images(2))
    pairs = []
    for h, w in ((9, 14), (5, 30), (12, 8)):  # the second is too small for a crop
        x = rng.random((2, h, w), dtype=np.float32)
        y = rng.random((2, h * factor + 1, w * factor + 2), dtype=np.float32)  # whole image; the pair is less of it
        area = pool.targets.add(y)
        pool.pairs.append((pool.inputs.add(x), area._replace(height=h * factor, width=w * factor)))
        pairs.append((x, y))
    x, y, number = sample(pool, 300, 7, torch.Generator().manual_seed(3))
    draws = torch.randint(1 << 30, (300, 4), generator=torch.Generator().manual_seed(3)).tolist()
    assert set(number.tolist()) == {0, 2}
    for n, (image, top, left, turn) in enumerate(draws):
        whole = [torch.from_numpy(part) for part in pairs[[0, 2][image % 2]]]
        i, j = top % (whole[0].shape[1] - 6), left % (whole[0].shape[2] - 6)
        for found, full, f in ((x[n], whole[0], 1), (y[n], whole[1], factor)):
            crop = full[:, i * f : (i + 7) * f, j * f : (j + 7) * f].rot90(turn % 4, (1, 2))
            crop = crop.flip(1) if turn % 8 >= 4 else crop
            assert (found - crop).abs().max() <= 0.5 / 255 + 1e-6
    assert x.is_contiguous(memory_format=torch.channels_last)
    first = pool.whole(0)
    assert (first[1][0] - torch.from_numpy(pairs[0][1])[:, : 9 * factor, : 14 * factor]).abs().max() <= 0.5 / 255 + 1e-6
    assert len(pool.head(2)) == 2
    with pytest.raises(InputError, match=f"{40 * factor} x {40 * factor} pixels"):
        sample(pool, 1, 40, torch.Generator())
    with pytest.raises(InputError, match="no images"):
        of_pairs([])


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_bicubic_by_matrices_is_the_kernel(scale: int) -> None:
    x = torch.rand(2, 3, 9, 13, generator=torch.Generator().manual_seed(0)).to(memory_format=torch.channels_last)
    with torch.autocast("cpu", dtype=torch.bfloat16):  # as in training; it must not get here
        assert (patches.by_matrices(x, scale) - patches.enlarge(x, scale)).abs().max() < 1e-5


def test_scales_share_their_hr_images(pictures: Path) -> None:
    paths = sorted(pictures.iterdir())
    two, three = patches.small(paths, [2, 3])
    assert two.targets is three.targets
    assert (len(two), two.pairs[1][1][2:], three.pairs[1][1][2:]) == (2, (80, 90), (81, 90))
    assert patches.enlarged(paths, (2, 4)).pairs[0][1].first == 0


def test_pieces_end_where_one_training_does(pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    whole = modelfile.read(btsrn(pictures, tmp_path / "one", steps=4))
    (tmp_path / "two").mkdir()
    lines: list[str] = []
    for k in range(4):  # each stops as soon as it may: after a step
        assert not (tmp_path / "two" / "made.safetensors").exists()
        made = btsrn(pictures, tmp_path / "two", steps=4, stop_after=1e-6, resume=True, progress=lines.append)
        assert (made is None) == (k < 3)
    assert any("stopped at step 1" in line and "--resume" in line for line in lines)
    found = modelfile.read(tmp_path / "two" / "made.safetensors")
    assert all(np.array_equal(whole.weights[k], found.weights[k]) for k in whole.weights)
    assert found.json("recipe")["steps"] == 4


def test_what_a_step_is_made_of_is_told(pictures: Path, tmp_path: Path) -> None:
    btsrn(pictures, tmp_path, steps=1, crops=1, size=36, lr=1e-4)
    made = btsrn(pictures, tmp_path, steps=2, size=50, resume=True)
    told = modelfile.read(made).json("recipe")
    assert (told["crops_per_step"], told["crop"], told["lr"], told["device"]) == (2, 48, 5e-4, "cpu")
    assert told["from_step"] == 1
    assert [(row["from_step"], row["crops_per_step"], row["crop"]) for row in told["earlier"]] == [(0, 1, 36)]
    # Where nothing is left to do, as when a file is written of what another machine has trained, nothing new is told.
    again = modelfile.read(btsrn(pictures, tmp_path, steps=2, crops=3, resume=True)).json("recipe")
    assert again == told


@pytest.mark.parametrize("kind", ["a", "b"])
def test_crnet_stops_and_goes_on(kind: str, pictures: Path, tmp_path: Path) -> None:
    common = {"data": [pictures], "config": {"n0": 4, "m0": 8, "steps": 1}, "work": tmp_path, "out": tmp_path}
    common |= {"size": 16, "crops": 2, "device": "cpu", "progress": lambda s: None, "resume": True}
    assert run(f"crnet_{kind}", **common, steps=2, stop_after=1e-6) == []
    assert len(run(f"crnet_{kind}", **common, steps=2)) == 3


class Line(torch.nn.Module):
    """A loss that is a parabola, and no number at the calls in `broken`."""

    def __init__(self, broken: range | set[int] = range(0)) -> None:
        super().__init__()
        self.w = torch.nn.Parameter(torch.ones(3))
        self.broken, self.calls = broken, 0

    def loss(self, model: torch.nn.Module, generator: torch.Generator, half: bool):
        self.calls += 1
        x = torch.rand(3, generator=generator)
        return ((self.w - x).pow(2) * (math.nan if self.calls in self.broken else 1)).sum()


@pytest.fixture
def rates(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The learning rates of the steps made."""
    found: list[float] = []
    step = torch.optim.Adam.step

    def noted(self, *args, **kwargs):
        found.append(self.param_groups[0]["lr"])
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.Adam, "step", noted)
    return found


def learn(net: Line, work: Path, steps: int = 20, **options):
    schedule = Schedule(steps=steps, check_seconds=0, warmup=5)  # a checkpoint at every step
    return train(net, net.loss, lambda m: 1.0, schedule, checkpoint=work / "line.pt", **options)


def test_a_loss_that_is_no_number_costs_the_steps_since_the_checkpoint(tmp_path: Path, rates: list[float]) -> None:
    lines: list[str] = []
    trained, state = learn(Line({8}), tmp_path, progress=lines.append)
    assert (state.step, state.failures) == (20, 1)
    assert torch.isfinite(trained.w).all()
    assert any("no number: back to step 7, other crops and half the learning rate" in line for line in lines)
    broken, rates[:] = rates[:], []
    learn(Line(), tmp_path)
    assert broken[:7] == rates[:7]
    assert broken[8:] == [rate / 2 for rate in rates[7:]]


def test_a_loss_that_stays_no_number_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="within 1 steps of the start: give a lower --lr"):
        learn(Line(range(1, 99)), tmp_path)
    assert not (tmp_path / "line.pt").exists()
    with pytest.raises(ModelError, match=r"after step 7, 4 times from the same checkpoint"):
        learn(Line(range(7, 99)), tmp_path)
    _, state = learn(Line(), tmp_path, resume=True)  # the checkpoint is the one before
    assert (state.step, state.failures) == (20, 0)


def test_a_larger_budget_does_not_make_the_learning_rate_jump(tmp_path: Path, rates: list[float]) -> None:
    net = Line()
    learn(net, tmp_path, steps=10)
    learn(net, tmp_path, steps=100, resume=True)
    assert rates[9] < 1e-4  # the end of the smaller budget
    assert max(later - earlier for earlier, later in pairwise(rates)) <= 1.01 * 1e-3 / 5
    assert max(rates[10:]) > 0.9e-3


def test_the_log_and_the_plot_lie_beside_the_checkpoint(tmp_path: Path) -> None:
    _, state = learn(Line(), tmp_path, how={"crops_per_step": 2}, progress=(lines := []).append)
    rows = [json.loads(line) for line in (tmp_path / "line.jsonl").read_text().splitlines()]
    assert rows == state.log
    assert set(rows[-1]) >= {"step", "seconds", "psnr", "loss", "rate", "seconds_per_step", "peak_gb"}
    assert rows[-1]["peak_gb"] > 0.01
    assert all(word in lines[-1] for word in ("100 %", "validation", "ms a step", "crops/s", "GB"))
    pytest.importorskip("matplotlib")
    with Image.open(tmp_path / "line.png") as plot:
        assert plot.size == (700, 700)
    assert not list(tmp_path.glob("*.tmp"))


def test_checkpoints_of_before_and_slim_ones_resume(tmp_path: Path, rates: list[float]) -> None:
    learn(Line(), tmp_path, steps=10)
    slim(tmp_path / "line.pt", tmp_path / "slim.pt")
    saved = torch.load(tmp_path / "line.pt", weights_only=True)
    saved["state"] = {k: saved["state"][k] for k in ("step", "seconds", "psnr", "log")}
    torch.save(saved, tmp_path / "line.pt")
    assert learn(Line(), tmp_path, steps=12, resume=True)[1].step == 12
    (tmp_path / "slim.pt").rename(tmp_path / "line.pt")
    rates.clear()
    assert learn(Line(), tmp_path, steps=100, resume=True)[1].step == 100
    assert rates[:3] == pytest.approx([1e-3 / 5, 2e-3 / 5, 3e-3 / 5], rel=1e-6)  # new moments rise from nothing
    saved = torch.load(tmp_path / "line.pt", weights_only=True)
    assert set(saved) == {"model", "ema", "optimizer", "state"}
    assert State(**saved["state"]).step == 100


def test_a_compiled_network_trains_the_same_weights(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The frame of torch.compile without its C++ compiler, which takes half a minute.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    lines: list[str] = []
    for compile in (False, True):
        (tmp_path / str(compile)).mkdir()
        btsrn(pictures, tmp_path / str(compile), steps=3, compile=compile, progress=lines.append)
    assert any(line.startswith("compiled in") for line in lines)
    plain, fast = (modelfile.read(tmp_path / str(c) / "made.safetensors").weights for c in (False, True))
    assert plain.keys() == fast.keys()
    assert max(np.abs(plain[k] - fast[k]).max() for k in plain) < 1e-5
    for kind in ("a", "b"):
        run(
            f"crnet_{kind}", data=[pictures], config={"n0": 4, "m0": 8, "steps": 1}, work=tmp_path, out=tmp_path,
            size=16, steps=1, device="cpu", compile=True, progress=lines.append,
        )  # fmt: skip
    assert not any("failed" in line for line in lines)


def test_training_goes_on_where_torch_compile_fails(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args, **kwargs):
        raise RuntimeError("no compiler here\nand a long trace")

    monkeypatch.setattr(torch, "compile", lambda function, **options: broken)
    lines: list[str] = []
    assert btsrn(pictures, tmp_path, steps=1, compile=True, progress=lines.append)
    assert lines[0] == "training without torch.compile, which failed: RuntimeError: no compiler here"


def test_devices() -> None:
    assert device.choose("cpu") == CPU
    with pytest.raises(DeviceError, match="no device 'tpu'"):
        device.choose("tpu")
    if not torch.cuda.is_available():
        assert device.choose("auto") == CPU
        with pytest.raises(DeviceError, match="cannot train on cuda"):
            device.choose("cuda")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["btsrn", "--scale", "3", "--device", "tpu"], "'tpu' is not one of"),
        (["btsrn", "--scale", "3", "--size", "4"], "4 is not in the range"),
        (["btsrn", "--scale", "3", "--lr", "0"], "0.0 is not in the range"),
        (["btsrn", "--scale", "3", "--stop-after", "-1"], "-1.0 is not in the range"),
        (["crnet_a", "--device", "cuda"], "cannot train on cuda"),
        (["srcnn", "--scale", "3", "--stop-after", "1"], "srcnn takes no stop_after"),
        (["annet", "--scale", "3", "--compile"], "annet takes no compile"),
    ],
)
def test_options_that_cannot_be(options: list[str], says: str, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    result = CliRunner().invoke(cli, ["train", *options, "--data", str(pictures)])
    assert result.exit_code
    assert says in result.output + str(result.exception)


def test_the_options_reach_the_recipe(pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "made.safetensors"
    command = (
        f"train btsrn --scale 3 --data {pictures} --config width=8,bottleneck=4,low=1,high=1 --steps 2 --crops 1 --size 36 "
        f"--lr 1e-4 --device cpu --no-compile --work {tmp_path} --out {out}"
    ).split()
    stopped = CliRunner().invoke(cli, [*command, "--stop-after", "0.00001"])
    assert (stopped.exit_code, out.exists()) == (0, False)
    assert CliRunner().invoke(cli, [*command, "--resume"]).exit_code == 0
    told = modelfile.read(out).json("recipe")
    assert (told["steps"], told["crops_per_step"], told["crop"], told["lr"]) == (2, 1, 36, 1e-4)
