"""What several looks cost before any training, against nets that are converted and loaded by TensorFlow Lite Micro."""

from dataclasses import replace

import numpy as np
import pytest
from learner_helpers import filled, int8_net

from hybrid.arena import arena_needs, recorded_arena_bytes, shared_arena_bytes
from hybrid.flatbuffers import continuing, named_outputs
from hybrid.look import ROUTER_FLASH_BYTES, build_stages, stage_archs, staged
from hybrid.nets import normalise
from hybrid.quantize import convert
from hybrid.specs import ArchSpec, BlockSpec, LookSpec
from hybrid.work import flatbuffer_work

IB = ArchSpec(
    name="ib",
    input_shape=(28, 28, 1),
    num_classes=10,
    blocks=(
        BlockSpec(kind="conv", width=8, stride=2),
        BlockSpec(kind="ib", width=16, expansion=3, depth=2, stride=2),
        BlockSpec(kind="ib", width=24, expansion=3, depth=2),
    ),
)
CLASSES = ArchSpec(
    name="classes",
    input_shape=(32, 32, 3),
    num_classes=100,
    blocks=(
        BlockSpec(kind="conv", width=16, stride=2),
        BlockSpec(kind="conv", width=32, stride=2),
        BlockSpec(kind="conv", width=64),
    ),
)
NUMBERED = ArchSpec(
    name="numbered",
    input_shape=(16, 16, 3),
    num_classes=5,
    blocks=(
        BlockSpec(kind="conv", width=8, depth=8),
        BlockSpec(kind="res", width=12, stride=2),
        BlockSpec(kind="res", width=16),
    ),
    grey=True,
)
"""Its far part counts on: the shortcut is conv2d_10, which comes before conv2d_8."""
SMALL = ArchSpec(
    name="small",
    input_shape=(12, 12, 1),
    num_classes=4,
    blocks=(BlockSpec(kind="conv", width=8, stride=2, depth=2), BlockSpec(kind="conv", width=12, stride=2)),
    input_pool=2,
)
"""Both parts need more while they are prepared than when they run."""
NET, EXIT = LookSpec(kind="net"), LookSpec(kind="exit")
CASES = (
    (IB, LookSpec()),
    (IB, NET),
    (IB, replace(NET, nets=2, width=1.5)),
    (SMALL, replace(NET, nets=2, width=0.6)),
    (IB, replace(EXIT, exit_after=1)),
    (IB, EXIT),
    (CLASSES, EXIT),
    (NUMBERED, replace(EXIT, exit_after=1)),
    (SMALL, EXIT),
)


def _flatbuffers(arch, look):
    """The int8 nets of all stages, made as `hybrid.quantize` makes them; the far part always begins with QUANTIZE."""
    import tf_keras

    rng = np.random.default_rng(0)
    rows = rng.integers(0, 256, (4, *arch.input_shape), dtype=np.uint8)
    tf_keras.backend.clear_session()
    if look.kind == "exit":
        near, far = (filled(net, rng) for net in build_stages(arch, look, tf_keras))
        first = named_outputs(convert(near, rows))
        trunk = near.predict(normalise(rows), verbose=0)[2]
        return first, continuing(named_outputs(convert(far, 0.9 * trunk)), first)
    made = {}
    for one in stage_archs(arch, look):
        if one not in made:
            made[one] = named_outputs(int8_net(one, rng))
    return tuple(made[one] for one in stage_archs(arch, look))


@pytest.fixture(
    scope="module", params=CASES, ids=lambda case: f"{case[0].name}-{case[1].kind}-{case[1].nets}-{case[1].exit_after}"
)
def made(request):
    return *request.param, _flatbuffers(*request.param)


def test_all_looks_share_the_arena_that_they_are_measured_to_need(made):
    """To the byte: each keeps its tail, beside the largest head."""
    pytest.importorskip("tflite_micro")
    arch, look, flatbuffers = made
    needs, costs = [arena_needs(flatbuffer) for flatbuffer in flatbuffers], staged(arch, look)
    assert shared_arena_bytes(needs) <= costs.peak_sram_bytes <= 1.05 * shared_arena_bytes(needs)
    assert recorded_arena_bytes([costs.arena]) >= recorded_arena_bytes(needs)


def test_the_flash_of_all_looks_is_that_of_their_flatbuffers(made):
    """Each part of an exit is a file with a head of its own."""
    arch, look, flatbuffers = made
    measured, estimated = sum(map(len, flatbuffers)), staged(arch, look).flash_bytes
    assert measured <= estimated - len(flatbuffers) * ROUTER_FLASH_BYTES <= 1.03 * measured


def test_the_work_of_each_look_is_that_of_its_flatbuffer(made):
    arch, look, flatbuffers = made
    assert staged(arch, look).stage_work == tuple(map(flatbuffer_work, flatbuffers))
