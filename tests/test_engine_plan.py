"""The static memory plan: nothing alive is overwritten, and the arena is as small as can be."""

import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from firmware_export.engine.plan import Buffer, Plan, Share, live_bytes, plan
from firmware_export.engine.reader import read
from hybrid.errors import SpecError

MODELS = Path(os.environ.get("HYBRID_DATA_DIR") or "no-data") / "tflite-models"


def test_a_chain_by_pencil():
    """100 -> 60 -> 80: the first two are 160 together, the last two 140; the last lies where the first was."""
    chain = [Buffer(size=100, first=0, last=1), Buffer(size=60, first=1, last=2), Buffer(size=80, first=2, last=3)]
    found = plan(chain)
    assert (found.arena_bytes, found.bound_bytes) == (160, 160)
    assert found.offsets in ((0, 100, 0), (60, 0, 60), (60, 0, 80))
    assert live_bytes(chain) == {0: 100, 1: 160, 2: 140, 3: 80}


def test_no_buffers():
    assert plan([]) == Plan(offsets=(), arena_bytes=0, bound_bytes=0)


def test_sizes_count_up_to_the_alignment():
    """5 and 3 bytes take 8 and 4."""
    found = plan([Buffer(size=5, first=0, last=0), Buffer(size=3, first=0, last=0)])
    assert (found.arena_bytes, found.offsets) == (12, (0, 8))
    odd = plan([Buffer(size=5, first=0, last=0, align=1), Buffer(size=3, first=0, last=0, align=1)])
    assert odd.arena_bytes == 8


def pair(reader: int, writer: int, **share: int | None) -> Plan:
    buffers = [Buffer(size=reader, first=0, last=1), Buffer(size=writer, first=1, last=2)]
    return plan(buffers, [Share(reader=0, writer=1, **share)])


@pytest.mark.parametrize(
    ("reader", "writer", "share", "arena"),
    [
        (100, 100, {"highest": 0}, 100),  # in place
        (100, 40, {"highest": 0}, 100),
        (40, 100, {"highest": 0}, 100),
        (100, 80, {"highest": -20}, 120),  # written at 0, read at 20, which ends at 120
        (40, 100, {"highest": -60}, 100),  # read at 60, to the end of what is written
        (40, 100, {"highest": -80}, 120),
        (40, 100, {"highest": -200}, 140),  # too far behind to have anything in common
        (100, 40, {"lowest": 60}, 100),  # written at the end of what is read
        (100, 40, {"lowest": 80}, 120),
        (100, 100, {"lowest": 0, "highest": 0}, 100),
        (40, 100, {"lowest": -40, "highest": -40}, 100),  # a part that is joined at 40
        (40, 100, {"lowest": 20, "highest": 20}, 120),  # read at 0, written from 20
        (100, 100, {}, 100),  # anywhere
    ],
)
def test_sharing_by_pencil(reader, writer, share, arena):
    found = pair(reader, writer, **share)
    assert (found.arena_bytes, found.bound_bytes) == (arena, arena)


def test_a_residual_block_in_place_by_pencil():
    """x 100, expanded 300, sum over x: 400 at the expansion, and no more at the addition of 100 and 100."""
    buffers = [
        Buffer(size=100, first=0, last=3),  # x
        Buffer(size=300, first=1, last=2),  # expanded
        Buffer(size=100, first=2, last=3),  # projected
        Buffer(size=100, first=3, last=4),  # x + projected
    ]
    over_x = Share(reader=0, writer=3, highest=0)
    assert live_bytes(buffers)[2] == plan(buffers).arena_bytes == 500
    assert live_bytes(buffers)[3] == 300
    assert live_bytes(buffers, [over_x])[3] == 200
    assert live_bytes(buffers, [over_x, replace(over_x, reader=2)])[3] == 200  # it cannot lie over both in full


def test_the_largest_first_is_not_enough():
    """Steps 0..1 hold 4 and 16, step 2 holds 12 and 8, steps 1..3 another 16: 36 at steps 1 and 2.

    Largest first puts the 16 that stays at 16, in the midst of where 12 and 8 would fit: 40. It must lie at 20.
    """
    given = [(4, 0, 1), (16, 0, 1), (12, 2, 2), (8, 2, 2), (16, 1, 3)]
    buffers = [Buffer(size=size, first=first, last=last) for size, first, last in given]
    found = plan(buffers)
    assert_sound(buffers, [], found)
    assert (found.arena_bytes, found.bound_bytes) == (36, 36)
    assert found.offsets[4] in (0, 20)


@pytest.mark.parametrize(
    ("buffers", "shares", "complaint"),
    [
        ([Buffer(size=0, first=0, last=1)], [], "buffer 0"),
        ([Buffer(size=4, first=2, last=1)], [], "first <= last"),
        ([Buffer(size=4, first=0, last=1, align=3)], [], "power of two"),
        ([Buffer(size=4, first=0, last=1)], [Share(reader=0, writer=1)], "beyond the 1 there are"),
        (
            [Buffer(size=4, first=0, last=2), Buffer(size=4, first=1, last=2)],
            [Share(reader=0, writer=1)],
            "does not die",
        ),
        ([Buffer(size=4, first=1, last=1)], [Share(reader=0, writer=0)], "does not die"),
    ],
)
def test_what_means_nothing_is_refused(buffers, shares, complaint):
    with pytest.raises(SpecError, match=complaint):
        plan(buffers, shares)


def assert_sound(buffers: list[Buffer], shares: list[Share], found: Plan) -> None:
    """What is alive at the same step lies apart, or as a share allows; all within the arena, aligned."""
    allowed = {(share.reader, share.writer): share for share in shares}
    for i, (one, a) in enumerate(zip(buffers, found.offsets, strict=True)):
        assert a >= 0
        assert a % one.align == 0
        assert a + one.size <= found.arena_bytes
        for j, (other, b) in enumerate(zip(buffers, found.offsets, strict=True)):
            meet = i != j and one.first <= other.last and other.first <= one.last
            apart = a + one.size <= b or b + other.size <= a
            assert not meet or apart or permitted(allowed.get((i, j)), b - a) or permitted(allowed.get((j, i)), a - b)
    assert found.arena_bytes >= found.bound_bytes


def permitted(share: Share | None, distance: int) -> bool:
    if share is None:
        return False
    above = share.lowest is None or share.lowest <= distance
    return above and (share.highest is None or distance <= share.highest)


def random_problem(rng: np.random.Generator, count: int, steps: int, largest: int) -> tuple[list[Buffer], list[Share]]:
    buffers = []
    for _ in range(count):
        first = int(rng.integers(steps))
        last = min(steps - 1, first + int(rng.choice([0, 1, 1, 2, 5])))
        align = int(rng.choice([1, 4, 16])) if largest > 20 else 1
        buffers.append(Buffer(size=int(rng.integers(1, largest)), first=first, last=last, align=align))
    meet = [(r, w) for r in range(count) for w in range(count) if r != w and buffers[r].last == buffers[w].first]
    limits = [(None, 0), (None, -2), (0, 0), (-3, 3), (None, None)]
    drawn = [(pair, limits[int(rng.integers(len(limits)))]) for pair in meet if rng.random() < 0.3]
    shares = [Share(reader=r, writer=w, lowest=low, highest=high) for (r, w), (low, high) in drawn]
    both = {(share.reader, share.writer) for share in shares}
    return buffers, [share for share in shares if (share.writer, share.reader) not in both]


@pytest.mark.parametrize("count", [2, 5, 12, 30])
def test_nothing_alive_is_overwritten(count):
    for seed in range(20 if count < 30 else 8):
        rng = np.random.default_rng([count, seed])
        buffers, shares = random_problem(rng, count, max(3, count // 2), 3000)
        found = plan(buffers, shares)
        assert_sound(buffers, shares, found)
        assert found == plan(buffers, shares)
        alone = plan(buffers)
        assert alone.arena_bytes <= 1.05 * alone.bound_bytes


def test_a_thousand_buffers_take_seconds_and_no_deep_recursion():
    buffers, shares = random_problem(np.random.default_rng(1200), 1200, 600, 3000)
    found = plan(buffers, shares)
    assert_sound(buffers, shares, found)
    assert found.bound_bytes < found.arena_bytes <= 1.2 * found.bound_bytes


def least_arena(buffers: list[Buffer], shares: list[Share]) -> int:
    """The least arena, by trying every offset of every buffer (alignment 1)."""
    allowed = {(share.reader, share.writer): share for share in shares}

    def agree(i: int, a: int, j: int, b: int) -> bool:
        one, other = buffers[i], buffers[j]
        meet = one.first <= other.last and other.first <= one.last
        apart = a + one.size <= b or b + other.size <= a
        return not meet or apart or permitted(allowed.get((i, j)), b - a) or permitted(allowed.get((j, i)), a - b)

    def fits(offsets: list[int], arena: int) -> bool:
        i = len(offsets)
        if i == len(buffers):
            return True
        places = range(arena - buffers[i].size + 1)
        return any(all(agree(i, a, j, b) for j, b in enumerate(offsets)) and fits([*offsets, a], arena) for a in places)

    return next(arena for arena in range(1, 1000) if fits([], arena))


def test_against_every_possible_plan():
    """The bound is never above the least arena; the plan meets that always without shares, nearly always with them."""
    missed = 0
    for seed in range(120):
        rng = np.random.default_rng(seed)
        buffers, shares = random_problem(rng, int(rng.integers(2, 6)), 4, 7)
        shares = shares if seed % 2 else []
        found, least = plan(buffers, shares), least_arena(buffers, shares)
        assert found.bound_bytes <= least <= found.arena_bytes
        missed += found.arena_bytes > least
        assert shares or found.arena_bytes == least
    assert missed <= 3


def random_net(rng: np.random.Generator, blocks: int) -> tuple[list[Buffer], list[Share]]:
    """Buffers of a net of inverted residuals, plain convolutions with scratch, and joined branches."""
    buffers: list[Buffer] = []
    shares: list[Share] = []
    side, channels, step = int(rng.choice([24, 32, 48, 96])), int(rng.choice([1, 3])), 0

    def make(size: int, *sources: int, over: int | None = None, scratch: int = 0) -> int:
        nonlocal step
        step += bool(sources)
        for source in sources:
            buffers[source] = replace(buffers[source], last=step)
        if scratch:
            buffers.append(Buffer(size=scratch, first=step, last=step))
        buffers.append(Buffer(size=size, first=step, last=step))
        if over is not None:
            shares.append(Share(reader=over, writer=len(buffers) - 1, highest=0))
        return len(buffers) - 1

    x = make(side * side * channels)
    for _ in range(blocks):
        stride, wider = int(rng.choice([1, 1, 2])), int(rng.choice([8, 16, 24, 32, 64]))
        area, small = side * side, (-(-side // stride)) ** 2
        kind = rng.choice(["inverted", "plain", "joined"])
        if kind == "inverted":
            inner = channels * int(rng.choice([2, 3, 6]))
            wide = make(area * inner, x)
            deep = make(small * inner, wide, over=wide if stride == 1 else None)
            y = make(small * wider, deep, scratch=200)
            x = make(small * wider, y, x, over=y) if stride == 1 and wider == channels else y
        elif kind == "plain":
            x = make(small * wider, x, scratch=int(rng.choice([0, 300])))
        else:
            one, other = make(small * wider, x), make(small * 8, x)
            wider += 8
            x = make(small * wider, one, other)
        side, channels = -(-side // stride), wider
    step += 1
    buffers[x] = replace(buffers[x], last=step)
    return buffers, [share for share in shares if buffers[share.reader].last == buffers[share.writer].first]


def test_nets_are_planned_optimally_and_fast():
    begin, largest = time.perf_counter(), 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        buffers, shares = random_net(rng, int(rng.integers(3, 22)))
        found = plan(buffers, shares)
        assert_sound(buffers, shares, found)
        assert found.arena_bytes == found.bound_bytes
        largest = max(largest, len(buffers))
    assert largest > 50
    assert time.perf_counter() - begin < 20


@pytest.mark.skipif(not MODELS.is_dir(), reason="no folder tflite-models in HYBRID_DATA_DIR")
@pytest.mark.parametrize(
    ("name", "arena"),
    [
        ("vww_96_int8.tflite", 48 * 48 * (8 + 16)),  # 1x1 convolution after the first depthwise one
        ("kws_ref_model.tflite", 25 * 5 * 64 * 2),
        ("ic_pretrainedResnet_quant.tflite", 32 * 32 * 16 * 3),  # the sum's two operands and the sum
    ],
)
def test_real_nets(name, arena):
    graph = read((MODELS / "mlperf-tiny" / name).read_bytes())
    made = dict.fromkeys(graph.inputs, 0)
    made |= {number: op.number for op in graph.ops for number in op.outputs}
    read_at = {number: op.number for op in graph.ops for number in op.inputs}
    last = len(graph.ops)
    sizes = {number: graph.tensors[number].size for number in made}
    buffers = [Buffer(size=sizes[n], first=first, last=read_at.get(n, last)) for n, first in made.items()]
    found = plan(buffers)
    assert_sound(buffers, [], found)
    assert found.arena_bytes == found.bound_bytes == arena
