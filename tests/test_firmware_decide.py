import ctypes
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_edge import CLASS_NAMES, POINTS, cascade, cascade_bundle, good_bundle, pixels, sources

from firmware_export import host
from firmware_export.host import compile_decision
from hybrid.device_router import StoredOutputs
from hybrid.errors import HybridError
from hybrid.predict import stage_outputs

INT8 = st.integers(-128, 127)
LOOK_AGAIN = 2


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


def test_stages_out_of_order_are_refused():
    compiled = compile_decision(sources(cascade_bundle()))
    said = StoredOutputs(logits=np.zeros((1, 3), np.int8), features=np.zeros((1, 5), np.int8))
    assert compiled.judge([said] * 3).stage.tolist() == [2]
    with pytest.raises(HybridError, match="a value is outside its range"):
        compiled.judge([said] * 4)  # there are three
    judge, nothing = compiled._library.hybrid_judge, ctypes.c_void_p()
    state, result = (ctypes.create_string_buffer(256) for _ in range(2))
    row, argument = said.logits.tobytes(), 1
    assert judge(1, row, row, state, result) == argument  # before stage 0
    assert judge(0, row, row + row, state, result) == 0
    assert judge(2, row, row + row, state, result) == argument  # stage 1 is missing
    assert judge(-1, row, row + row, state, result) == argument
    for call in ((nothing, row, state, result), (row, nothing, state, result), (row, row, nothing, result)):
        assert judge(0, *call) == argument
    assert judge(0, row, row + row, state, nothing) == argument


def test_golden_examples_of_a_cascade_in_c():
    """What the nets say, through the compiled router, stage by stage until it does not look again."""
    golden = json.loads(cascade_bundle().files["golden/golden.json"])
    compiled, x = compile_decision(sources(cascade_bundle())), pixels(20)
    first, second, third = (stage.flatbuffer for stage in cascade().stages)
    early = stage_outputs(first, x, engine="tflm")
    said = [
        early.own,
        stage_outputs(second, early.trunk, engine="tflm").own,
        stage_outputs(third, x, engine="tflm").own,
    ]
    looks = [compiled.judge(said[:count]) for count in (1, 2, 3)]
    last = np.where(looks[0].decision != LOOK_AGAIN, 0, np.where(looks[1].decision != LOOK_AGAIN, 1, 2))
    assert last.tolist() == golden["stage"]
    rows = range(20)
    assert [looks[stage].score[row] for row, stage in zip(rows, last, strict=True)] == golden["router_score"]
    assert [looks[stage].logits[row].tolist() for row, stage in zip(rows, last, strict=True)] == golden["logits"]
    assert LOOK_AGAIN not in looks[2].decision


def test_complaint_of_the_compiler_is_passed_on():
    broken = {**sources(), "hybrid_decide.c": b"int x = 1.5f + ;"}
    with pytest.raises(HybridError, match=r"does not compile: hybrid_decide\.c"):
        compile_decision(broken)


def test_no_compiler(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(HybridError, match="no C compiler found"):
        host.c_compiler()
