"""A static memory plan: where in one arena each buffer lies, from sizes and lifetimes alone.

Buffers whose lifetimes meet lie apart, unless a `Share` lets the step at which they meet write one over the other. What
results is compared with a lower bound that no plan can beat: the bytes alive at the worst step.

Finding the least arena is NP-hard (dynamic storage allocation). Placing buffers largest first, each as low as it
fits, mostly meets the bound; where it does not, other orders are tried within limits. All of it is deterministic.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from hybrid.errors import SpecError

NODE_LIMIT = 1000
MOST_SEARCHED = 200
"""Buffers; with more, the search's limit of nodes would end before it has seen a handful of plans."""
ROUNDS = 20
FEWER_ROUNDS = 6000
"""Buffers times rounds are not more than this."""


@dataclass(frozen=True, kw_only=True)
class Buffer:
    """Memory that is in use from the step `first` to the step `last`, both included."""

    size: int
    """In bytes; counted up to a multiple of `align`."""
    first: int
    last: int
    align: int = 4

    @property
    def room(self) -> int:
        """Bytes that it takes."""
        return -(-self.size // self.align) * self.align


@dataclass(frozen=True, kw_only=True)
class Share:
    """Leave to overlap for two buffers, named by their indices: `reader` dies at the step that begins `writer`.

    They may overlap where ``lowest <= offset of writer - offset of reader <= highest`` (None: no limit). A step that
    writes each element after it read it, in ascending order, has ``highest=0``; one that must stay `n` bytes behind
    what it reads ``highest=-n``; one that works in place or not at all ``lowest=highest=0``.
    """

    reader: int
    writer: int
    lowest: int | None = None
    highest: int | None = None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Offsets in bytes, in the order of the buffers."""

    offsets: tuple[int, ...]
    arena_bytes: int
    bound_bytes: int
    """No plan takes less; so the plan is optimal where both are equal."""


def plan(buffers: Sequence[Buffer], shares: Sequence[Share] = (), *, node_limit: int = NODE_LIMIT) -> Plan:
    """Place all buffers in as small an arena as is found with so many steps of search.

    Raises: SpecError where a buffer or a leave to share means nothing.
    """
    _check(buffers, shares)
    bound = max(live_bytes(buffers, shares).values(), default=0)
    straight = _Problem.of(buffers, shares)
    found = _greedy(straight, bound)
    if found.arena > bound:
        found = min(found, _greedy(straight.mirrored(), bound).mirrored(), key=lambda layout: layout.arena)
    if found.arena > bound and len(buffers) <= MOST_SEARCHED:
        found, saw_all = _Search(straight, shares, node_limit).best(found)
        if saw_all and all(share.lowest is None and _or(share.highest, 1) <= 0 for share in shares):
            bound = found.arena
    return Plan(offsets=found.offsets, arena_bytes=found.arena, bound_bytes=bound)


def live_bytes(buffers: Sequence[Buffer], shares: Sequence[Share] = ()) -> dict[int, int]:
    """Give for each step how many bytes are alive at least, all allowed overlaps made the most of.

    >>> x, y = Buffer(size=100, first=0, last=1), Buffer(size=60, first=1, last=2)
    >>> live_bytes([x, y]), live_bytes([x, y], [Share(reader=0, writer=1, highest=0)])
    ({0: 100, 1: 160, 2: 60}, {0: 100, 1: 100, 2: 60})
    """
    steps = sorted({step for buffer in buffers for step in (buffer.first, buffer.last)})
    alive = {step: sum(b.room for b in buffers if b.first <= step <= b.last) for step in steps}
    for step in {buffers[share.writer].first for share in shares}:
        alive[step] -= _saved([share for share in shares if buffers[share.writer].first == step], buffers)
    return alive


def _saved(shares: Sequence[Share], buffers: Sequence[Buffer]) -> int:
    """Give the most bytes that the overlaps of one step can save: readers lie apart, and so do writers."""
    least = []
    for side in ("reader", "writer"):
        overlaps: dict[int, int] = {}
        for share in shares:
            index = getattr(share, side)
            overlaps[index] = overlaps.get(index, 0) + _overlap(share, buffers)
        least.append(sum(min(buffers[index].room, overlap) for index, overlap in overlaps.items()))
    return min(least, default=0)


def _overlap(share: Share, buffers: Sequence[Buffer]) -> int:
    """Give the most bytes that two buffers may have in common.

    The lesser one lies within the larger one at distances between 0 and the difference of sizes; the further away from
    these, the less they have in common.
    """
    reader, writer = buffers[share.reader].room, buffers[share.writer].room
    inner = sorted((0, reader - writer))
    away = max(0, inner[0] - _or(share.highest, inner[0]), _or(share.lowest, inner[1]) - inner[1])
    return max(0, min(reader, writer) - away)


def _or(limit: int | None, other: int) -> int:
    return other if limit is None else limit


def _check(buffers: Sequence[Buffer], shares: Sequence[Share]) -> None:
    for index, b in enumerate(buffers):
        if b.size < 1 or b.first > b.last or b.align < 1 or b.align & (b.align - 1):
            raise SpecError(f"plan: buffer {index} is {b}, expected a size, first <= last, a power of two to align to")
    for share in shares:
        named = range(len(buffers))
        if share.reader not in named or share.writer not in named:
            raise SpecError(f"plan: {share} names a buffer beyond the {len(buffers)} there are")
        if buffers[share.reader].last != buffers[share.writer].first or share.reader == share.writer:
            raise SpecError(f"plan: {share}: its reader does not die at the step that begins its writer")


_Window = tuple[int | None, int | None]


@dataclass(frozen=True)
class _Problem:
    """Buffers, and for each the others that it meets, with the distances to them that are allowed in spite of it."""

    buffers: tuple[Buffer, ...]
    meets: tuple[dict[int, _Window | None], ...]

    @classmethod
    def of(cls, buffers: Sequence[Buffer], shares: Sequence[Share]) -> "_Problem":
        meets: tuple[dict[int, _Window | None], ...] = tuple({} for _ in buffers)
        for i, one in enumerate(buffers):
            for j, other in enumerate(buffers):
                if i != j and one.first <= other.last and other.first <= one.last:
                    meets[i][j] = None
        for share in shares:
            meets[share.writer][share.reader] = (share.lowest, share.highest)
            meets[share.reader][share.writer] = (_negative(share.highest), _negative(share.lowest))
        return cls(tuple(buffers), meets)

    def mirrored(self) -> "_Problem":
        """Give the problem with offsets counted down from the arena's end."""
        meets = tuple(
            {j: window and self._mirror(window, i, j) for j, window in row.items()} for i, row in enumerate(self.meets)
        )
        return _Problem(self.buffers, meets)

    def _mirror(self, window: _Window, i: int, j: int) -> _Window:
        """An offset o becomes arena - o - room: a distance d becomes room of j - room of i - d."""
        sizes = self.buffers[j].room - self.buffers[i].room
        lowest, highest = window
        return None if highest is None else sizes - highest, None if lowest is None else sizes - lowest

    def lowest(self, index: int, placed: dict[int, int], floor: int = 0) -> int:
        """Give the lowest offset from `floor` at which a buffer agrees with those placed."""
        align = self.buffers[index].align
        offset = floor = -(-floor // align) * align
        for low, high in sorted(self._forbidden(index, placed)):
            if low > offset:
                break
            if offset <= high:
                offset = -(-(high + 1) // align) * align
        return offset

    def _forbidden(self, index: int, placed: dict[int, int]) -> Iterator[tuple[int, int]]:
        """Give the offsets, from the first to the last, at which a buffer would lie on another."""
        room = self.buffers[index].room
        for other, window in self.meets[index].items():
            if other in placed:
                at = placed[other]
                low, high = at - room + 1, at + self.buffers[other].room - 1
                if window is None:
                    yield low, high
                    continue
                if window[0] is not None:
                    yield low, min(high, at + window[0] - 1)
                if window[1] is not None:
                    yield max(low, at + window[1] + 1), high

    def layout(self, placed: dict[int, int]) -> "_Layout":
        """Give a complete placement."""
        return _Layout(self.buffers, tuple(placed[index] for index in range(len(self.buffers))))


@dataclass(frozen=True)
class _Layout:
    buffers: tuple[Buffer, ...]
    offsets: tuple[int, ...]

    @property
    def arena(self) -> int:
        return max((o + b.room for o, b in zip(self.offsets, self.buffers, strict=True)), default=0)

    def mirrored(self) -> "_Layout":
        """Count offsets from the other end."""
        most = max((buffer.align for buffer in self.buffers), default=1)
        end = -(-self.arena // most) * most
        flipped = tuple(end - o - b.room for o, b in zip(self.offsets, self.buffers, strict=True))
        return _Layout(self.buffers, flipped)


def _negative(limit: int | None) -> int | None:
    return None if limit is None else -limit


_ORDERS: tuple[Callable[[Buffer], tuple[int, ...]], ...] = (
    lambda b: (-b.room, b.first),
    lambda b: (-b.room * (b.last - b.first + 1), b.first),
    lambda b: (b.first, -b.room),
    lambda b: (-b.last, -b.room),
)


def _greedy(problem: _Problem, bound: int) -> _Layout:
    """Place each buffer as low as it fits, in several orders; give the best.

    Buffers that end beyond the bound come earlier in the next round (squeaky wheel optimisation: Joslin and Clements,
    J. Artificial Intelligence Research 10, 1999).
    """
    layouts = []
    rounds = max(1, min(ROUNDS, FEWER_ROUNDS // max(len(problem.buffers), 1)))
    for key in _ORDERS:
        order = sorted(range(len(problem.buffers)), key=lambda i: (*key(problem.buffers[i]), i))
        for _ in range(rounds):
            layouts.append(_placed(problem, order))
            late = [i for i in order if layouts[-1].offsets[i] + problem.buffers[i].room > bound]
            if not late:
                return layouts[-1]
            for index in late:
                at = order.index(index)
                order.insert(at // 2, order.pop(at))
    return min(layouts, key=lambda layout: layout.arena)


def _placed(problem: _Problem, order: Sequence[int]) -> _Layout:
    placed: dict[int, int] = {}
    for index in order:
        placed[index] = problem.lowest(index, placed)
    return problem.layout(placed)


class _Search:
    """Branch and bound: buffers are placed in the order of their offsets, each as low as it fits.

    Any plan can be pushed down, lowest buffer first, until it has this form, if each share lets its writer lie no
    higher than its reader; then, none is overlooked but for the limit of nodes.
    """

    def __init__(self, problem: _Problem, shares: Sequence[Share], node_limit: int) -> None:
        self._problem, self._nodes = problem, node_limit
        steps = sorted({buffer.first for buffer in problem.buffers})
        live = live_bytes(problem.buffers, shares)
        self._bound = max(live.values(), default=0)
        self._alive = {t: [i for i, b in enumerate(problem.buffers) if b.first <= t <= b.last] for t in steps}
        rooms = {t: sum(problem.buffers[i].room for i in alive) for t, alive in self._alive.items()}
        self._saved = {t: rooms[t] - live[t] for t in steps}

    def best(self, found: _Layout) -> tuple[_Layout, bool]:
        """Give a better layout than `found`, or `found`; and whether there was time to see all."""
        self._found = found
        self._place({}, 0)
        return self._found, self._nodes > 0

    def _place(self, placed: dict[int, int], floor: int) -> None:
        self._nodes -= 1
        if len(placed) == len(self._problem.buffers):
            self._found = self._problem.layout(placed)
            return
        left = [index for index in range(len(self._problem.buffers)) if index not in placed]
        places = {index: self._problem.lowest(index, placed, floor) for index in left}
        ends = {index: place + self._problem.buffers[index].room for index, place in places.items()}
        for index in sorted(left, key=lambda i: (places[i], -self._problem.buffers[i].room, i)):
            if places[index] >= min(ends.values()):
                return  # another one would fit below this one
            if self._nodes <= 0 or self._found.arena <= self._bound or not self._may_fit(placed, ends, places[index]):
                return
            self._place({**placed, index: places[index]}, places[index])

    def _may_fit(self, placed: dict[int, int], ends: dict[int, int], floor: int) -> bool:
        """Whether what is left can end below the best arena, each alone and at each step together, from `floor` on."""
        buffers, arena = self._problem.buffers, self._found.arena
        if max(ends.values()) >= arena:
            return False
        for step, alive in self._alive.items():
            tops = (placed[i] + buffers[i].room - floor if i in placed else buffers[i].room for i in alive)
            if floor + sum(max(0, top) for top in tops) - self._saved[step] >= arena:
                return False
        return True
