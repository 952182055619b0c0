import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_edge import CLASS_NAMES, POINTS, good_bundle, sources

from firmware_export import host
from firmware_export.host import compile_decision
from hybrid.errors import HybridError

INT8 = st.integers(-128, 127)


@pytest.fixture
def c():
    compiled = _compiled()
    compiled.set_operating_point(1)
    return compiled


def _compiled(cache=[]):  # noqa: B006 - one compilation for the file
    if not cache:
        cache.append(compile_decision(sources()))
    return cache[0]


def test_pencil(c):
    assert c.threshold == 7
    assert c.decide(np.array([3, 9, 9]), 7) == (1, True)  # the lower of two equal logits; 7 >= 7
    assert c.decide(np.array([-128, -128, -128]), 6) == (0, False)
    assert c.decide(np.array([-128, -128, 127]), 127) == (2, True)


@settings(max_examples=300)
@given(logits=st.lists(INT8, min_size=3, max_size=3), score=INT8, threshold=st.integers(-128, 128))
def test_agrees_with_python(logits, score, threshold):
    compiled = _compiled()
    compiled.set_threshold(threshold)
    assert compiled.decide(np.array(logits, np.int8), score) == (int(np.argmax(logits)), score >= threshold)


@pytest.mark.parametrize("score", [-128, -127, 0, 126, 127])
def test_ends_of_the_threshold(c, score):
    logits = np.zeros(3, np.int8)
    c.set_threshold(-128)
    assert c.decide(logits, score) == (0, True)
    c.set_threshold(128)
    assert c.decide(logits, score) == (0, False)


@pytest.mark.parametrize("threshold", [-129, 129, 100_000])
def test_threshold_outside_its_range_changes_nothing(c, threshold):
    with pytest.raises(HybridError, match="a value is outside its range"):
        c.set_threshold(threshold)
    assert c.threshold == 7


def test_operating_points_by_place(c):
    for index, expected in enumerate(POINTS):
        c.set_operating_point(index)
        assert c.threshold == expected.threshold
    for outside in (-1, len(POINTS)):
        with pytest.raises(HybridError, match="outside its range"):
            c.set_operating_point(outside)


def test_class_names_survive_c(c):
    assert [c.class_name(index) for index in range(-1, 4)] == [None, *CLASS_NAMES, None]


def test_golden_outputs(c):
    golden = json.loads(good_bundle().files["golden/golden.json"])
    rows = zip(golden["logits"], golden["router_score"], golden["edge_class"], strict=True)
    decisions = [(c.decide(np.array(logits), score), (best, score >= 7)) for logits, score, best in rows]
    assert len(decisions) == 5
    assert all(got == expected for got, expected in decisions)


def test_complaint_of_the_compiler_is_passed_on():
    broken = {**sources(), "hybrid_decide.c": b"int x = 1.5f + ;"}
    with pytest.raises(HybridError, match=r"does not compile: hybrid_decide\.c"):
        compile_decision(broken)


def test_no_compiler(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(HybridError, match="no C compiler found"):
        host.c_compiler()
