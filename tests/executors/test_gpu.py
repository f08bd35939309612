# SPDX-License-Identifier: Apache-2.0
"""The GPU executors: whole plans of every family, who runs what, tiles, memory, tensors, tuning and its cache."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from fastsr import DeviceError, InputError, LimitError, executors, load  # noqa: E402
from fastsr.executors import devices  # noqa: E402
from fastsr.families.annet import ANNet  # noqa: E402
from fastsr.families.btsrn import BTSRN  # noqa: E402
from fastsr.families.crnet import CRNetA, CRNetB  # noqa: E402
from fastsr.families.span import Wide  # noqa: E402
from fastsr.families.srcnn import SRCNN  # noqa: E402
from fastsr.gpu import tuning  # noqa: E402
from fastsr.gpu.gpu import PreparedGpu  # noqa: E402
from fastsr.gpu.stages import Candidate  # noqa: E402
from fastsr.testing import TOLERANCE, assert_matches, rng  # noqa: E402

FAMILIES: dict[str, Callable[[], Any]] = {
    "annet": lambda: ANNet(3, maps=16, atoms=70),
    "srcnn_915": lambda: SRCNN(2, (9, 1, 5)),
    "srcnn_955": lambda: SRCNN(2, (9, 5, 5), (16, 8)),
    "srcnn_rgb": lambda: SRCNN(2, (9, 1, 5), (16, 8), channels=3),
    "btsrn": lambda: BTSRN(4, width=16, bottleneck=8, low=1, high=1, slope=0.2),
    "crnet_a": lambda: CRNetA(2, n0=16, m0=32, steps=2),
    "crnet_b": lambda: CRNetB(4, n0=16, m0=32, steps=2),
    "span": lambda: span(3, width=16, blocks=2),
}


def span(scale: int, **sizes: int) -> Any:
    """As its training begins: of weights that torch draws by default the output would be 20, and 30 dB from itself in bf16."""
    model = Wide(scale, **sizes)
    model.reset(torch.rand(8, 3, 16, 16))
    return model.fold()


def lowered(family: str) -> tuple[Any, dict[str, np.ndarray]]:
    torch.manual_seed(1)
    return FAMILIES[family]().lower()  # type: ignore[no-any-return]


def prepare(family: str, device: Any, executor: str = "triton", **options: Any) -> PreparedGpu:
    made = executors.get(executor).prepare(*lowered(family), device=str(device), **options)
    assert isinstance(made, PreparedGpu)
    return made


def image(channels: int, h: int, w: int, n: int = 0) -> np.ndarray:
    x: np.ndarray = rng(h).random((n, channels, h, w) if n else (channels, h, w), dtype=np.float32)
    return x


@pytest.mark.parametrize("family", FAMILIES)
def test_whole_plans_match_the_reference(device: Any, family: str) -> None:
    plan, weights = lowered(family)
    x = image(plan.channels, 5, 7)
    expected = executors.get("reference").prepare(plan, weights, precision="fp64").run(x)
    full, half = (prepare(family, device, precision=p) for p in ("fp32", "bf16"))
    assert_matches(full.run(x), expected)
    error = np.square(half.run(x) - expected).mean()
    assert -10 * np.log10(error) >= 60
    assert [row["out"] for row in half.explain(5, 7)] == [step.out for step in plan.steps]


def test_who_runs_what(device: Any) -> None:
    def who(family: str, **options: Any) -> list[str]:
        return [row["who"] for row in prepare(family, device, **options).explain(5, 7)]

    assert who("srcnn_915", precision="fp16") == ["triton fp16"] + 3 * ["triton shallow fp16"]
    # Exact fp32 products are too slow to be made again for a window; the first two layers need none.
    assert who("srcnn_915") == ["triton fp32", "triton shallow fp32", "triton shallow fp32", "triton fp32"]
    assert who("srcnn_955", precision="bf16") == 4 * ["triton bf16"]
    assert who("annet") == ["triton fp32"] * 2 + ["triton shallow fp32"] * 2
    assert set(who("crnet_b")) == {"triton fp32"}
    # The kernels of CUDA C++ come first, Triton's take the rest.
    assert {line.split()[0] for line in who("btsrn", executor="cuda", precision="fp16")} <= {"cuda", "triton"}


def test_what_no_kernel_supports_runs_by_torch_and_says_so(device: Any) -> None:
    plan, weights = CRNetA(2, n0=6, m0=8, steps=2).lower()
    made = executors.get("triton").prepare(plan, weights, device=str(device), precision="fp32")  # type: ignore[call-arg]
    (row,) = [row for row in made.explain(5, 7) if row["op"] == "cista"]
    assert row["who"] == "torch fp32 (triton: 6 -> 8 channels are too few for matrix products)"
    x = image(1, 5, 7)
    assert_matches(made.run(x), executors.get("reference").prepare(plan, weights, precision="fp64").run(x))


def test_fusion_needs_a_chain_that_nobody_else_reads(device: Any) -> None:
    plan, weights = lowered("srcnn_915")
    steps = list(plan.steps)
    x = image(1, 5, 7)
    assert steps[1].op == steps[2].op == steps[3].op == "conv2d"
    # The last step adds the maps' own input: still one launch. A second reader of the maps: none.
    joined = replace(plan, steps=(*steps[:3], replace(steps[3], inputs=(steps[3].inputs[0], "bicubic"))))
    made = executors.get("triton").prepare(joined, weights, device=str(device), precision="fp16")  # type: ignore[call-arg]
    assert [len(stage.steps) for stage in made.stages] == [1, 3]  # type: ignore[attr-defined]
    assert_psnr(made.run(x), joined, weights, x)
    twice = replace(
        plan, steps=(*steps[:2], replace(steps[2], out="m"), replace(steps[2], out="n"), *_sum("m", "n", steps[3]))
    )
    made = executors.get("triton").prepare(twice, weights, device=str(device), precision="fp16")  # type: ignore[call-arg]
    assert [len(stage.steps) for stage in made.stages][:2] == [1, 1]  # type: ignore[attr-defined]
    assert_psnr(made.run(x), twice, weights, x)


def _sum(a: str, b: str, last: Any) -> tuple[Any, Any]:
    first = replace(last, inputs=(a,), out="half", params={**last.params, "activation": "relu"})
    return first, replace(last, inputs=(b, "half"))


def assert_psnr(out: np.ndarray, plan: Any, weights: dict[str, np.ndarray], x: np.ndarray) -> None:
    expected = executors.get("reference").prepare(plan, weights, precision="fp64").run(x)
    assert -10 * np.log10(np.square(out - expected).mean()) >= 60


@pytest.mark.parametrize(("family", "precision"), [("annet", "fp32"), ("srcnn_915", "bf16")])
def test_tiles_change_nothing(device: Any, family: str, precision: str) -> None:
    whole = prepare(family, device, precision=precision)
    x = image(whole.plan.channels, 12, 14)
    assert whole.run(x).tobytes() == prepare(family, device, precision=precision, tile=7).run(x).tobytes()


def test_memory_is_counted_and_bounded(device: Any) -> None:
    whole = prepare("btsrn", device)
    x = image(3, 40, 44)
    need = whole.bytes(1, 40, 44)
    # The widest moment: two values of 16 channels at 4 x 4 times the pixels, fp32.
    assert need >= 2 * 16 * 4 * 16 * 40 * 44
    assert whole.bytes(2, 40, 44) == 2 * need
    assert whole.traffic(3, 40, 44) == 3 * whole.traffic(1, 40, 44) > 3 * (40 * 44 * 3 * 4) * 17
    limited = prepare("btsrn", device, memory_limit=need // 2)
    side = limited._side(1, 40, 44)
    assert side is not None
    assert side < 44
    with pytest.raises(LimitError, match="memory_limit=1000 is too low"):
        prepare("btsrn", device, memory_limit=1000).run(x)


def test_memory_that_is_short_makes_smaller_tiles_of_the_same_pixels(
    device: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = prepare("srcnn_915", device, precision="fp16")
    x = image(1, 64, 3)
    expected = whole.run(x)
    eager, refused = PreparedGpu._eager, []

    def short(self: PreparedGpu, x: Any) -> Any:
        if x.shape[-1] * x.shape[-2] > 80:
            refused.append(tuple(x.shape))
            raise torch.cuda.OutOfMemoryError
        return eager(self, x)

    monkeypatch.setattr(PreparedGpu, "_eager", short)
    out = prepare("srcnn_915", device, precision="fp16").run(x)
    assert len(refused) >= 2
    if device.type == "cuda":
        assert out.tobytes() == expected.tobytes()
    else:  # torch's convolution on the CPU sums in an order that depends on the size
        np.testing.assert_allclose(out, expected, rtol=0, atol=1e-6)
    monkeypatch.setattr(PreparedGpu, "_eager", lambda self, x: short(self, torch.empty(1, 1, 99, 99)))
    with pytest.raises(LimitError, match="too little free memory"):
        whole.run(x)


def test_batches_strides_and_empty_ones(device: Any) -> None:
    made = prepare("srcnn_915", device, precision="fp16")
    x = torch.from_numpy(image(1, 9, 8, n=3)).to(device)
    out = made.run_tensor(x)
    assert out.shape == (3, 1, 18, 16)
    assert out.dtype == torch.float32
    assert out.device.type == device.type
    turned = x.transpose(-1, -2).contiguous().transpose(-1, -2)
    assert torch.equal(made.run_tensor(turned)[1], out[1])
    assert torch.equal(made.run_tensor(x[2:]), out[2:])
    assert made.run_tensor(x[:0]).shape == (0, 1, 18, 16)


@pytest.mark.gpu
def test_graphs_give_the_same_and_follow_the_stream(device: Any) -> None:
    if device.type != "cuda":
        pytest.skip("the interpreter has no graphs")
    made = prepare("btsrn", device, precision="fp16")
    inputs = [torch.from_numpy(image(3, 24, 32, n=1)).to(device) * f for f in (1.0, 0.5, 0.25, 0.75)]
    eager = [made._eager(x) for x in inputs]
    found = [made.run_tensor(x) for x in inputs]
    assert len(made._graphs) == 1
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        found += [made.run_tensor(x) for x in inputs]
    torch.cuda.synchronize()
    for x, y in zip(eager * 2, found, strict=True):
        assert torch.equal(x, y)


def test_a_shape_is_captured_when_it_comes_again_or_done_without(device: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made = prepare("srcnn_915", device, precision="fp16")
    x = torch.from_numpy(image(1, 4, 5, n=1)).to(device)
    expected = made._eager(x)
    tried = []

    def refuse(x: Any) -> Any:
        tried.append(tuple(x.shape))
        raise RuntimeError("capture failed")

    monkeypatch.setattr(made, "device", SimpleNamespace(type="cuda"))
    monkeypatch.setattr(made, "_capture", refuse)
    for count in (0, 1, 1):
        assert torch.equal(made._whole(x), expected)
        assert len(tried) == count
    graph = SimpleNamespace(replay=lambda x: "replayed")
    monkeypatch.setattr(made, "_capture", lambda x: made._graphs.setdefault(tuple(x.shape), graph))
    made._whole(x[:, :, 1:])
    assert [made._whole(x[:, :, 1:]) for _ in range(2)] == ["replayed"] * 2


# --- the upscaler -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("domain", ["y", "rgb"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_tensors_stay_on_the_device_and_match_the_cpu(
    device: Any, small_model: Callable[..., Path], domain: str, channels: int
) -> None:
    path = small_model(domain=domain)
    there, here = load(path, executor="triton"), load(path, device="cpu")
    x = torch.from_numpy(image(channels, 6, 5, n=2))
    out = there.upscale(x.to(device))
    assert (out.device.type, out.dtype, tuple(out.shape)) == (device.type, x.dtype, (2, channels, 12, 10))
    assert_matches(out.cpu().numpy(), here.upscale(x).numpy().astype(np.float64))
    assert_matches(there.upscale(x[0].double().to(device)).cpu().numpy(), here.upscale(x[0]).numpy().astype(np.float64))
    assert_matches(
        there.upscale(x[0, :1, :, :].permute(1, 2, 0).numpy()),
        here.upscale(x[0, :1].permute(1, 2, 0).numpy()).astype(np.float64),
    )


def test_self_ensemble_of_tensors(device: Any, small_model: Callable[..., Path]) -> None:
    path = small_model(domain="rgb")
    x = torch.from_numpy(image(3, 6, 5))
    there, here = (load(path, executor=e, self_ensemble=True) for e in ("triton", "cpu"))
    assert_matches(there.upscale(x.to(device)).cpu().numpy(), here.upscale(x).numpy().astype(np.float64))
    assert (
        np.abs(there.upscale(x.numpy().transpose(1, 2, 0)) - here.upscale(x.numpy().transpose(1, 2, 0))).max()
        < TOLERANCE["fp32"]
    )


def test_bad_tensors_are_refused_as_on_the_cpu(device: Any, small_model: Callable[..., Path]) -> None:
    net = load(small_model(), executor="triton")
    x = torch.rand(1, 4, 4, device=device)
    for bad, message in (
        (x * 255, "must lie in"),
        (x / 0, "replace NaN and infinity"),
        (torch.zeros(5, 4, 4), "1 to 4 channels"),
        (torch.zeros(1, 0, 4), "empty"),
        ((x * 9).int(), "must be uint8, uint16 or float"),
    ):
        with pytest.raises(InputError, match=message):
            net.upscale(bad)
    with pytest.raises(LimitError, match="output pixels"):
        net.upscale(torch.zeros(1, 1, 1, device=device).expand(1, 30000, 30000))
    assert net.upscale(torch.zeros(0, 1, 4, 4, device=device)).shape == (0, 1, 8, 8)


# --- devices ------------------------------------------------------------------------------------------------------------


def test_cuda_says_what_is_missing(small_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    path = small_model()
    if devices.missing("cuda"):
        with pytest.raises(DeviceError, match=r"device 'cuda': torch .* (is a build without CUDA|finds no NVIDIA GPU)"):
            load(path, device="cuda")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "finds no NVIDIA GPU or driver" in str(devices.missing("cuda"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert devices.missing("cuda:3") == "there are 1 GPUs, numbered from 0"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "T4")
    assert devices.missing("cuda:0") == "T4 has compute capability 7.5, 8.0 is needed"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "triton" else object())
    assert devices.missing("cuda") == "triton is not installed: pip install 'fastsr[gpu]'"


def test_auto_falls_back_to_the_cpu_with_one_line(
    small_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FASTSR_LOG", "1")
    monkeypatch.setattr(devices, "driver", lambda: False)
    assert load(small_model()).info()["executor"] == "cpu"
    assert capsys.readouterr().err.count("fastsr: on the CPU: no NVIDIA driver found\n") == 1
    monkeypatch.setattr(devices, "driver", lambda: True)
    monkeypatch.setattr(devices, "missing", lambda device: "torch is too old")
    assert load(small_model()).info()["executor"] == "cpu"
    assert "fastsr: on the CPU: torch is too old\n" in capsys.readouterr().err
    load(small_model(), device="cpu")
    assert "on the CPU" not in capsys.readouterr().err


def test_what_a_gpu_executor_refuses() -> None:
    plan, weights = lowered("srcnn_915")
    with pytest.raises(DeviceError, match="precision 'int8' is not one of fp32, tf32, fp16, bf16, fp8 for a GPU"):
        executors.get("triton").prepare(plan, weights, precision="int8")
    with pytest.raises(DeviceError, match="is not cpu, cuda, cuda:N"):
        executors.get("triton").prepare(plan, weights, device="cuda:x")


# --- tuning -------------------------------------------------------------------------------------------------------------


def test_tuning_keeps_the_fastest_candidate_that_is_right(
    device: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = prepare("srcnn_955", device, precision="fp16")
    made.choices = tuning.Choices(device, tmp_path / "cache" / "tuning.json")
    x = image(1, 5, 7)
    expected = made.run(x)
    (stage,) = [s for s in made.stages if s.key.startswith("triton/torch conv2d(b[8],w[8,16,5,5]")]
    candidates = stage.candidates()
    assert candidates[-1] == Candidate("torch")
    assert len(candidates) == 4
    wrong, slow, apart = candidates[:3]
    clock = iter(range(1, 1000))
    honest = stage.implementations[0].launch

    def launch(packed: Any, inputs: Any, config: Any) -> Any:
        if config == slow.config:
            raise RuntimeError("out of resource: shared memory")
        out = honest(packed, inputs, config)
        if config == apart.config and inputs[0].shape[2] > tuning.CROP:
            return out * 1.5
        return out * (1.5 if config == wrong.config else 1)

    altered = replace(
        stage, implementations=(replace(stage.implementations[0], launch=launch), stage.implementations[1])
    )
    made.stages[made.stages.index(stage)] = altered
    monkeypatch.setattr(tuning, "CROP", 8)
    rows = [
        row
        for row in made.tune(1, 5, 7, measure=lambda launch: launch() is None or float(next(clock)))
        if row["stage"] == stage.key
    ]
    assert rows[0]["error"] > rows[0]["limit"]
    assert rows[0]["seconds"] is None
    assert rows[1]["failed"].startswith("RuntimeError")
    assert rows[2]["apart"] > rows[2]["limit"] >= rows[2]["error"]
    assert [row["seconds"] is None for row in rows] == [True, True, True, False]
    chosen = made.choices.of(stage, (1, 16, 10, 14))
    assert chosen == Candidate("torch")
    assert [row["who"] for row in made.explain(5, 7)][2] == "torch fp16 tuned"
    # Others read it from the file; other sizes and machines do not use it.
    again = tuning.Choices(device, tmp_path / "cache" / "tuning.json")
    assert again.of(stage, (1, 16, 10, 14)) == chosen
    assert again.of(stage, (1, 16, 100, 140)) is None
    data = json.loads((tmp_path / "cache" / "tuning.json").read_text())
    (machine,) = data
    assert "triton" in machine
    assert "kernels" in machine
    (tmp_path / "cache" / "tuning.json").write_text(json.dumps({"another machine": data[machine]}))
    assert tuning.Choices(device, tmp_path / "cache" / "tuning.json").of(stage, (1, 16, 10, 14)) is None
    made.stages[made.stages.index(altered)] = stage
    assert np.abs(made.run(x) - expected).max() < 1e-3


def test_the_backend_that_measures_faster_runs_a_class_of_sizes(
    device: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = prepare("srcnn_955", device, executor="gpu", precision="fp16")
    made.choices = tuning.Choices(device, tmp_path / "tuning.json")
    made.measures = True  # as on a GPU
    timed: list[Any] = []

    def seconds(launch: Callable[[], Any]) -> float:
        timed.append(launch())
        return 1.0 / len(timed)  # the later the faster

    monkeypatch.setattr(tuning, "_seconds", seconds)
    x = image(1, 5, 7)
    first = made.run(x)
    convolutions = [stage for stage in made.stages if stage.steps[0].op == "conv2d"]
    assert all(
        [implementation.name for implementation in stage.implementations] == ["triton", "torch"]
        for stage in convolutions
    )
    assert len(timed) == 2 * len(convolutions)  # each backend's default once
    chosen = [made.choices.of(stage, (1, stage_channels(stage), 10, 14)) for stage in convolutions]
    assert chosen == [Candidate("torch")] * len(convolutions)
    assert [row["who"] for row in made.explain(5, 7)][1] == "torch fp16 tuned"
    assert made.run(x).tobytes() == first.tobytes()
    assert len(timed) == 2 * len(convolutions)
    # What a broken installation cannot run any more is not chosen.
    gone = replace(
        convolutions[0],
        implementations=(replace(convolutions[0].implementations[1], pack=broken), convolutions[0].implementations[0]),
    )
    assert made.choices.of(gone, (1, stage_channels(gone), 10, 14)) is None


def stage_channels(stage: Any) -> int:
    return int(stage.key.partition("w[")[2].split(",")[1])


def broken() -> Any:
    raise RuntimeError("no cupy here")


def test_a_cpu_has_nothing_to_tune(small_model: Callable[..., Path]) -> None:
    with pytest.raises(DeviceError, match="nothing to tune on the CPU"):
        load(small_model(), device="cpu").tune(4, 4)


def test_a_broken_cache_is_no_cache(tmp_path: Path) -> None:
    for text in ("{", "[]", '{"a": 1}'):
        (tmp_path / "tuning.json").write_text(text)
        assert tuning.Choices(torch.device("cpu"), tmp_path / "tuning.json").found == {}
    assert tuning.cache_file().name == "tuning.json"
