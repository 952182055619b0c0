"""A program over a split: later stages see only what asks for them, and each example keeps its last answer."""

import numpy as np
import pytest
from learner_helpers import Listener
from tiny_edge import cascade, pixels, program

from datasets import Split
from hybrid.artifacts import Affine
from hybrid.cascade import DeviceProgram, Mix, Stage, combined
from hybrid.device_router import IntegerRouter, RouterInputs
from hybrid.errors import BundleError
from hybrid.flatbuffers import dequantise
from hybrid.predict import device_outputs, predictions, run_program, stage_outputs


def margin_stage(name, **changes):
    """A stage that scores the margin of the two best: margin m gives m - 128."""
    router = IntegerRouter(
        inputs=RouterInputs(top=1),
        weights=np.array([[1]], np.int32),
        bias=np.zeros(1, np.int32),
        shift=0,
        out=None,
        out_bias=0,
        cuts=np.arange(1, 256, dtype=np.int64),
    )
    return Stage(flatbuffer=name, router=router, **changes)


SAID = {
    b"first": np.array([[9, 0], [1, 0], [0, 3], [50, 1]]),
    b"second": np.array([[1, 9], [0, 9]]),  # of the second and third example alone
    b"third": np.array([[100, 0]]),  # of the third alone
}


def test_stages_by_pencil():
    """Margins 9, 1, 3, 49: below 5 look again; sums (2, 9) and (0, 12): margins 7 and 12; below 10 look again."""
    asked = []

    def run(flatbuffer, x):
        asked.append((flatbuffer, x.ravel().tolist()))
        logits = SAID[flatbuffer].astype(np.int8)
        assert len(logits) == len(x)
        features = np.zeros((len(x), 1), np.int8)
        return [logits, features, 10 * x.astype(np.int8)] if flatbuffer == b"first" else [logits, features]

    two, three = Mix(multipliers=(1, 1)), Mix(multipliers=(1, 1, 1))
    program = DeviceProgram(
        stages=(
            margin_stage(b"first", look_below=5 - 128),
            margin_stage(b"second", reads="trunk", mix=two, look_below=10 - 128),
            margin_stage(b"third", mix=three),
        )
    )
    found = device_outputs(program, np.arange(4, dtype=np.int8), run)
    assert asked == [(b"first", [0, 1, 2, 3]), (b"second", [10, 20]), (b"third", [1])]
    assert found.stage.tolist() == [0, 2, 1, 0]
    assert found.logits.tolist() == [[9, 0], [102, 9], [0, 12], [50, 1]]
    assert (found.score.astype(int) + 128).tolist() == [9, 93, 12, 49]


def test_a_trunk_that_is_not_there():
    program = DeviceProgram(stages=(margin_stage(b"x", look_below=128), margin_stage(b"y", reads="trunk")))
    with pytest.raises(BundleError, match="reads the trunk"):
        device_outputs(program, np.zeros(1, np.int8), lambda *_: [np.zeros((1, 2), np.int8)] * 2)


@pytest.mark.parametrize("engine", ["tflm", "host"])
def test_a_cascade_is_its_stages_where_they_run(engine):
    x, listener = pixels(150, seed=4), Listener()
    found = run_program(cascade(), x, engine=engine, label="look", narrator=listener)
    assert set(found.stage) == {0, 1, 2}
    runs = [150, (found.stage > 0).sum(), (found.stage > 1).sum()]
    names = ("look, edge", "look, look_1", "look, look_2")
    assert listener.tracked == [(name, count, count) for name, count in zip(names, runs, strict=True)]
    first = stage_outputs(cascade().stages[0].flatbuffer, x, engine=engine)
    second = stage_outputs(cascade().stages[1].flatbuffer, first.trunk, engine=engine)
    third = stage_outputs(cascade().stages[2].flatbuffer, x, engine=engine)
    assert second.trunk is None
    said = [first.own, second.own, third.own]
    for number, stage in enumerate(cascade().stages):
        rows = found.stage == number
        read = combined(stage.mix, said[: number + 1])
        np.testing.assert_array_equal(found.logits[rows], read.logits[rows])
        np.testing.assert_array_equal(found.score[rows], stage.router.score(read)[rows])
        assert (found.score[rows] >= stage.look_below).all()


def test_images_may_come_as_the_device_stores_them():
    x = pixels(20)
    one, other = (run_program(program(), given) for given in (x, (x.astype(int) - 128).astype(np.int8)))
    np.testing.assert_array_equal(one.logits, other.logits)


def test_predictions_of_a_cascade():
    split = Split(x=pixels(60, seed=9), y=np.zeros(60, np.int32))
    cloud = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)
    found, said = predictions(cascade(), split, cloud), run_program(cascade(), split.x)
    np.testing.assert_array_equal(found.stage, said.stage)
    np.testing.assert_array_equal(found.router_score, said.score)
    np.testing.assert_array_equal(found.edge_class, said.logits.argmax(axis=1))
    for number, stage in enumerate(cascade().stages):
        rows = said.stage == number
        np.testing.assert_array_equal(found.edge_logits[rows], dequantise(said.logits[rows], stage.mix.affine))
    assert cascade().stages[2].mix.affine != Affine(scale=1.0, zero_point=0)
