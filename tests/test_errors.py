# SPDX-License-Identifier: Apache-2.0
"""Messages: one line of visible characters, in Python as in C++, whatever they quote."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastsr import _core
from fastsr.errors import DeviceError, FastsrError, ModelError, printable


@given(st.text())
def test_text_becomes_visible_once_and_for_all(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    assert printable(shown) == shown
    assert shown == text or not text.isprintable()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J", r"\x1b[2J"),
        ("a\nb\r\t", r"a\nb\r\t"),
        ("\u202eabc", r"\u202eabc"),
        ("\ud800", r"\ud800"),
        ("übergroß 東京 \\n", "übergroß 東京 \\n"),
    ],
)
def test_what_acts_is_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert str(ModelError(text)) == shown


def test_errors_keep_their_kind_and_message() -> None:
    error = pickle.loads(pickle.dumps(DeviceError("no\nGPU")))
    assert isinstance(error, DeviceError)
    assert isinstance(error, FastsrError)
    assert str(error) == r"no\nGPU"


@given(st.text(min_size=1))
def test_the_core_escapes_what_it_quotes(text: str) -> None:
    """Checked by the class's own rule, which knows more characters; what C++ leaves visible stays as it was."""
    plan = {"domain": "y", "scale": 1, "steps": []}
    step = {"op": text, "inputs": ["lr"], "out": "out", "weights": {}, "params": {}}
    with pytest.raises(ModelError) as e:
        _core.Session({**plan, "steps": [step]}, {})
    assert str(e.value).isprintable()
    if text.isprintable() and len(text.encode()) <= 200:
        assert text in str(e.value)


@pytest.mark.parametrize(
    "change",
    [
        {"params": {"slope": 2**63}},
        {"params": {"border": "\ud800"}},
        {"params": {"\ud800": 1}},
        {"params": {"slope": 1e300}},
        {"params": {"slope": None}},
        {"op": "\udfff"},
        {"inputs": ["\ud800"]},
        {"inputs": [3]},
        {"weights": {"w": 3}},
    ],
)
def test_values_that_cpp_cannot_hold_are_a_model_error(change: dict[str, object]) -> None:
    """Of a plan made by hand: those of a file are refused when it is read."""
    step = {"op": "conv2d", "inputs": ["lr"], "out": "out", "weights": {"w": "w"}, "params": {}} | change
    with pytest.raises(ModelError):
        _core.Session({"domain": "y", "scale": 1, "steps": [step]}, {"w": np.ones((1, 1, 3, 3), np.float32)})
