# SPDX-License-Identifier: Apache-2.0
"""Names of models: what is in the box, and what a wrong name is answered."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fastsr import ModelError, catalog, models


@pytest.fixture
def box(small_model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of shipped models with toy_x2 and toy_x3 in it."""
    small_model("toy_x2", scale=2)
    small_model("toy_x3", scale=3)
    monkeypatch.setattr(catalog, "WEIGHTS", tmp_path)
    catalog.models.cache_clear()
    yield tmp_path
    catalog.models.cache_clear()


def test_models_tell_what_their_files_say(box: Path) -> None:
    x2, x3 = models()
    assert (x2.name, x2.scale, x2.domain, x2.arch) == ("toy_x2", 2, "y", "test")
    assert x3.bytes == (box / "toy_x3.safetensors").stat().st_size


def test_a_name_is_found(box: Path) -> None:
    assert catalog.locate("toy_x2") == box / "toy_x2.safetensors"
    assert catalog.locate("toy", 3) == box / "toy_x3.safetensors"
    assert catalog.locate(box / "toy_x3.safetensors") == box / "toy_x3.safetensors"


@pytest.mark.parametrize(
    ("name", "scale", "message"),
    [
        ("toy_x4", None, "did you mean toy_x3 or toy_x2|did you mean toy_x2 or toy_x3"),
        ("toy", None, "give a scale, or one of toy_x2, toy_x3"),
        ("toy", 7, "'toy' for scale 7: there are toy_x2, toy_x3"),
        ("qqqq", None, "there are toy_x2, toy_x3"),
        ("", None, "there is no model ''"),
        ("no/such/file", None, "no such model file"),
        ("nothing.safetensors", None, "no such model file"),
        ("n" * 5000, None, "there is no model"),
        ("../toy_x2", None, "no such model file"),
    ],
)
def test_a_wrong_name_is_answered_with_the_right_ones(box: Path, name: str, scale: int | None, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        catalog.locate(name, scale)


def test_a_broken_file_in_the_box_harms_no_other(box: Path) -> None:
    (box / "bad_x2.safetensors").write_bytes(b"12345678901234567890")
    assert catalog.locate("toy_x2").exists()
    with pytest.raises(ModelError, match="bad_x2"):
        models()


def test_srcnn_is_short_for_its_best_variant() -> None:
    for given, scale in (("srcnn_x3", None), ("srcnn", 3), ("srcnn_955", 3)):
        assert catalog.locate(given, scale).name == "srcnn_955_x3.safetensors"
    with pytest.raises(ModelError, match="give a scale, or one of srcnn_955_x2"):
        catalog.locate("srcnn")
