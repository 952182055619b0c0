"""Int8 models over many examples: the same answers from both engines, in order, from any number of workers."""

import subprocess
import sys

import numpy as np
import pytest
from learner_helpers import Listener
from tiny_edge import pixels, program, tiny_continuation, tiny_edge

from hybrid import runtimes
from hybrid.arena import ArenaNeeds, arena_needs, least_arena_bytes, recorded_arena_bytes, shared_arena_bytes
from hybrid.errors import HybridError, UnsupportedOpError

ENGINES = ("tflm", "host")
CUT = {"no flatbuffer": b"not a model at all", "nothing": b"", "half a model": None}


def broken(name):
    return tiny_edge()[: len(tiny_edge()) // 2] if CUT[name] is None else CUT[name]


def test_the_engines_agree_to_a_rounding():
    device, host = (runtimes.run(tiny_edge(), pixels(60), engine=engine) for engine in ENGINES)
    assert [output.shape for output in device] == [output.shape for output in host]
    assert [output.shape for output in device] == [(60, 3), (60, 4), (60, 3, 3, 4)]
    for ours, theirs in zip(device, host, strict=True):
        assert ours.dtype == theirs.dtype == np.int8
        assert np.abs(ours.astype(int) - theirs).max() <= 1
    assert len(np.unique(device[0], axis=0)) > 5


@pytest.mark.parametrize("engine", ENGINES)
def test_examples_keep_their_order_among_workers(engine, monkeypatch):
    """Four workers on 403 examples, which no four shares divide, against one worker on each."""
    x = pixels(403)
    monkeypatch.setattr(runtimes.os, "cpu_count", lambda: 4)
    starts = []
    start = runtimes._start
    monkeypatch.setattr(runtimes, "_start", lambda *args: starts.append(len(args[-1])) or start(*args))
    together = runtimes.run(tiny_edge(), x, engine=engine)
    assert starts == [101, 101, 101, 100]
    order = [402, 0, 303, 101, 100, 202]
    alone = runtimes.run(tiny_edge(), x[order], engine=engine)
    for all_rows, some in zip(together, alone, strict=True):
        assert len(all_rows) == 403
        np.testing.assert_array_equal(all_rows[order], some)


def test_progress_counts_every_example():
    listener = Listener()
    runtimes.run(tiny_edge(), pixels(150), engine="tflm", label="look", narrator=listener)
    assert listener.tracked == [("look", 150, 150)]


def test_the_input_is_x_minus_128():
    assert runtimes.to_int8(np.arange(256, dtype=np.uint8)).tolist() == list(range(-128, 128))


@pytest.mark.parametrize("engine", ENGINES)
def test_int8_examples_are_taken_as_they_are(engine):
    x = pixels(20)
    as_stored = runtimes.run(tiny_edge(), (x.astype(int) - 128).astype(np.int8), engine=engine)
    for one, other in zip(runtimes.run(tiny_edge(), x, engine=engine), as_stored, strict=True):
        np.testing.assert_array_equal(one, other)
    trunks = as_stored[2]
    logits, features = runtimes.run(tiny_continuation(), trunks, engine=engine)
    assert (logits.shape, features.shape) == ((20, 3), (20, 5))
    assert len(np.unique(logits, axis=0)) > 5


@pytest.mark.parametrize("name", CUT)
@pytest.mark.parametrize("engine", ENGINES)
def test_a_broken_model_is_one_clear_line(engine, name):
    with pytest.raises(HybridError, match=r"^the interpreter refused the model: .") as caught:
        runtimes.run(broken(name), pixels(3), engine=engine)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("engine", ENGINES)
def test_examples_of_another_shape_are_refused(engine):
    with pytest.raises(HybridError, match="refused the model"):
        runtimes.run(tiny_edge(), np.zeros((2, 9, 8, 1), np.uint8), engine=engine)


def works(flatbuffer, arena_bytes):
    """Whether TensorFlow Lite Micro runs the model in so much arena; in a process of its own, for it may crash."""
    code = (
        "import sys; from tflite_micro import runtime\n"
        "runtime.Interpreter.from_bytes(sys.stdin.buffer.read(), arena_size=int(sys.argv[1])).invoke()\n"
    )
    command = [sys.executable, "-c", code, str(arena_bytes)]
    return subprocess.run(command, input=flatbuffer, capture_output=True).returncode == 0


def test_the_least_arena_works_and_less_does_not():
    least = least_arena_bytes(program())
    assert least % 16 == 0
    assert works(program().stages[0].flatbuffer, least)
    assert not works(program().stages[0].flatbuffer, least - 16)


def test_what_is_recorded_fits_in_the_least_arena(int8_edge):
    for flatbuffer in (tiny_edge(), int8_edge.flatbuffer):
        needs = arena_needs(flatbuffer)
        assert 1000 < recorded_arena_bytes([needs]) <= needs.least_bytes


def test_a_shared_arena_by_pencil():
    small = ArenaNeeds(head_bytes=100, tail_bytes=1000, least_bytes=1300)
    large = ArenaNeeds(head_bytes=5000, tail_bytes=2000, least_bytes=7008)
    assert shared_arena_bytes([small]) == 1300  # as measured
    assert shared_arena_bytes([small, large]) == 8016  # 1000 + 7008 while the second is prepared, up to 16
    assert shared_arena_bytes([large, small]) == 8000  # both tails and the larger head: 2000 + 1000 + 5000
    assert shared_arena_bytes([small, small]) == 2304  # 1000 + 1300


def test_arena_of_a_broken_model():
    with pytest.raises(UnsupportedOpError, match="TFLite Micro refuses the model") as caught:
        arena_needs(b"not a model at all")
    assert "\n" not in str(caught.value)
