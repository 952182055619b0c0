"""Which edge net, and which cloud beside it?  What fits the device and the budget, and of that, which pair is best.

Costs come before scores: a net that does not fit is skipped and recorded with the reason, and never ends the search.
Costs, logits and the engine are passed in as functions, so that this module knows neither devices nor supernets.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from datasets.dataset import Dataset
from hybrid.artifacts import Bools, Device
from hybrid.configure import read_toml, structure, to_toml
from hybrid.errors import BudgetError, SpecError, WorkerDoneError
from hybrid.progress import SILENT, Advance, Narrator
from hybrid.specs import ArchSpec, CloudSpec, SearchSpec
from nas.candidate import Candidate, PairScore
from nas.finals import Alone, Final, finals
from nas.growth import Compute, Lessons
from nas.pareto import pareto_set
from nas.score import Judge, Outputs, Scorer, paired_error, standard_error
from nas.space import Space, sample, smallest

EDGE_FILE, CLOUD_FILE = "edge.toml", "cloud.toml"
CANDIDATES_FILE, PARETO_FILE = "candidates.json", "pareto.json"
FEASIBLE_DRAWS = 200
"""Nets drawn, beside the smallest, before a space counts as too large for the device."""
COMPARED = 64
"""Most pairs that are compared with the best one row by row."""


class Cost(Compute, Protocol):
    """What an estimate must tell of a net."""

    @property
    def flash_bytes(self) -> int:
        """Bytes of the model in flash."""

    @property
    def peak_sram_bytes(self) -> int:
        """Bytes of activations at the worst moment."""


E = TypeVar("E", bound=Cost)
Explore = Callable[..., tuple[Candidate, ...]]
"""The engine, `nas.oracle.explore`; on a worker it gives no candidates."""


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """The pair that goes on to full training, every net that was looked at, in order, and those none is better than."""

    edge: ArchSpec
    cloud: CloudSpec
    candidates: tuple[Candidate, ...]
    front: tuple[Candidate, ...] = ()
    """The Pareto set: expected accuracy against latency, SRAM and flash."""

    @property
    def chosen(self) -> Candidate:
        """The candidate that won."""
        return next(c for c in self.candidates if c.arch == self.edge)

    @property
    def place(self) -> int:
        """Of the chosen cloud among those to choose from."""
        return self.chosen.best_known.cloud if self.chosen.best_known else 0

    @property
    def finalists(self) -> tuple[Candidate, ...]:
        """The candidates that were trained on their own."""
        return tuple(c for c in self.candidates if c.alone is not None)

    @property
    def counts(self) -> dict[str, int]:
        """How many candidates were scored, and how many skipped."""
        states = [c.status for c in self.candidates]
        return {state: states.count(state) for state in ("scored", "skipped")}


@dataclass(frozen=True, kw_only=True)
class Pricing(Generic[E]):
    """The costs of nets, against the device and the spec's ceilings; `fits` raises BudgetError for the device's."""

    estimate: Callable[[ArchSpec], E]
    fits: Callable[[E], None]
    latency_ms: Callable[[E], float]
    spec: SearchSpec
    device: Device

    def check(self, cost: E) -> None:
        """Raise BudgetError where a net of this cost cannot be used."""
        self.fits(cost)
        needs = {name: getattr(cost, name) for name in ("macs", "flash_bytes", "peak_sram_bytes")}
        for name, needed in (*needs.items(), ("latency_ms", round(self.latency_ms(cost), 3))):
            limit = getattr(self.spec, f"max_{name}")
            if limit and needed > limit:
                key = f"search.max_{name}"
                where, remedy = f"{self.device.name} under {key}", f"raise {key} (0: no ceiling)"
                raise BudgetError(name, needed, limit, where, remedy)

    def allows(self, arch: ArchSpec) -> bool:
        """Whether a net can be used."""
        return self.price(arch).status == "fits"

    def price(self, arch: ArchSpec) -> Candidate:
        """Price one net, without building it."""
        cost = self.estimate(arch)
        candidate = Candidate(
            arch=arch,
            macs=cost.macs,
            flash_bytes=cost.flash_bytes,
            peak_sram_bytes=cost.peak_sram_bytes,
            latency_ms=self.latency_ms(cost),
        )
        try:
            self.check(cost)
        except BudgetError as exc:
            return replace(candidate, status="skipped", reason=str(exc))
        return candidate


def check(space: Space, data: Dataset, pricing: Pricing[E], *, seed: int) -> None:
    """Refuse, before anything is trained, a space of other shapes than `data`, or of which nothing fits.

    Raises: SpecError; BudgetError with the needs of the smallest net.
    """
    _check_shapes(pricing.spec.space or "search space", space.input_shape, space.num_classes, data)
    rng = np.random.default_rng(seed)
    drawn = (sample(space, rng) for _ in range(FEASIBLE_DRAWS))
    if not any(pricing.allows(arch) for arch in chain([smallest(space)], drawn)):
        _refuse(space, pricing)


def given(path: Path, data: Dataset, pricing: Pricing[E], cloud: CloudSpec) -> SearchResult:
    """Price a net of the user's own, beside `cloud`. Raises: SpecError, BudgetError where it cannot be used."""
    arch = structure(read_toml(path), ArchSpec, where=str(path))
    _check_shapes(str(path), arch.input_shape, arch.num_classes, data)
    names = ("width", "stride", "kernel", "depth", "expansion")
    if min((getattr(block, name) for block in arch.blocks for name in names), default=0) < 1:
        raise SpecError(f"{path}: needs one block or more, with {', '.join(names)} of 1 or more")
    pricing.check(pricing.estimate(arch))
    return SearchResult(edge=arch, cloud=cloud, candidates=(pricing.price(arch),))


def search(
    space: Space,
    *,
    pricing: Pricing[E],
    judge: Judge,
    outputs: Outputs,
    lessons: Lessons,
    alone: Alone,
    clouds: Sequence[CloudSpec],
    explore: Explore,
    seed: int,
    folder: Path,
    identity: str,
    narrator: Narrator = SILENT,
) -> SearchResult:
    """Find the edge net and the cloud that are best together; `clouds` are those of ``judge.offers``, in order.

    `lessons` say what training of its own will do for a net that `outputs` knows with shared weights; `alone` gives a
    finalist that training.
    `folder` keeps the state and `identity` names the question: after an interruption the same call goes on where it
    was, also with more ``spec.trials``.
    Raises: BudgetError where no net fits, with the needs of the smallest; SpecError for a folder that is damaged or
    holds another search; WorkerDoneError where this process was a worker, and another one leads; what `alone` raises.
    """
    spec = pricing.spec
    growth, compute = lessons.growth, pricing.estimate
    scorer = Scorer(judge=judge, outputs=outputs, errors_left=lambda arch: growth.errors_left(compute(arch)))
    with narrator.track("search", spec.trials) as advance:
        candidates = explore(
            space,
            price=pricing.price,
            score=scorer.score,
            trials=spec.trials,
            seed=seed,
            folder=folder,
            identity=identity,
            told=_told(advance),
        )
    if not candidates:
        raise WorkerDoneError("search: this worker has nothing left to do; the chief of the search has its results")
    if not any(c.score for c in candidates):
        _refuse(space, pricing)
        raise SpecError(f"search: no net was scored; {candidates[0].arch.name}: {candidates[0].reason}")
    played = finals(candidates, spec.finalists, scorer=scorer, lessons=lessons, compute=compute, alone=alone)
    if right := {final.candidate: final.right for final in _announced(played, narrator)}:
        by_net = {candidate.arch: candidate for candidate in right}
        candidates = tuple(by_net.get(candidate.arch, candidate) for candidate in candidates)
        chosen, score = choose(right, right.__getitem__, tolerance=spec.noise_tolerance)
    else:
        chosen, score = choose(candidates, scorer.right, tolerance=spec.noise_tolerance)
    result = SearchResult(
        edge=chosen.arch, cloud=clouds[score.cloud], candidates=candidates, front=pareto_set(candidates)
    )
    narrator.say(_summary(result, spec.trials))
    return result


def choose(
    candidates: Iterable[Candidate], right: Callable[[Candidate], Bools], *, tolerance: float = 1.0
) -> tuple[Candidate, PairScore]:
    """Choose the fastest in mean latency of the pairs whose expected accuracy is within the noise of the best.

    The noise is `tolerance` standard errors of the difference from the best on the same rows, which is less than that
    of either accuracy (the one-standard-error rule of Breiman et al., Classification and Regression Trees, 1984, for
    paired examples). `right` says on which rows a pair is right, and is asked of at most `COMPARED` of them.
    """
    known = ((c, c.best_known) for c in candidates)
    scored = sorted(((c, score) for c, score in known if score is not None), key=lambda pair: _merit(pair[1]))
    best = scored[0]
    if tolerance <= 0:
        return best
    best_right = right(best[0])
    apart = 2**0.5 * standard_error(best_right)  # of unrelated answers; those of two nets for one task are related
    near = [
        (c, score)
        for c, score in scored[1:]
        if score.mean_latency_ms < best[1].mean_latency_ms
        and score.expected_accuracy >= best[1].expected_accuracy - tolerance * apart
    ]
    for c, score in sorted(near[:COMPARED], key=lambda pair: pair[1].mean_latency_ms):
        gap = best[1].expected_accuracy - score.expected_accuracy
        if gap <= tolerance * paired_error(best_right, right(c)):
            return c, score
    return best


def _announced(played: Iterable[Final], narrator: Narrator) -> Iterator[Final]:
    for final in played:
        name, alone, score = final.candidate.arch.name, final.candidate.alone, final.candidate.score
        if alone and score:
            reached, expected = f"{alone.hybrid_accuracy:.1%}", f"{score.expected_accuracy:.1%}"
            narrator.say(f"Finalist {name}: {reached} with the cloud once it is trained alone; expected {expected}")
        yield final


def _merit(score: PairScore) -> tuple[float, float]:
    """Sorts the most accurate pair first; of equals the faster."""
    return -score.expected_accuracy, score.mean_latency_ms


def write(result: SearchResult, folder: Path) -> None:
    """Write the pair as ``edge.toml`` and ``cloud.toml``, all candidates and the Pareto set as JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / EDGE_FILE).write_text(to_toml(result.edge), encoding="utf-8")
    (folder / CLOUD_FILE).write_text(to_toml(result.cloud), encoding="utf-8")
    for name, candidates in ((CANDIDATES_FILE, result.candidates), (PARETO_FILE, result.front)):
        lines = ",\n".join(json.dumps(asdict(candidate)) for candidate in candidates)
        (folder / name).write_text(f"[\n{lines}\n]\n", encoding="utf-8")


def read(folder: Path) -> SearchResult:
    """Read what `write` wrote. Raises: SpecError naming the file that is missing or damaged."""
    try:
        result = SearchResult(
            edge=structure(read_toml(folder / EDGE_FILE), ArchSpec, where=EDGE_FILE),
            cloud=structure(read_toml(folder / CLOUD_FILE), CloudSpec, where=CLOUD_FILE),
            candidates=_read_candidates(folder / CANDIDATES_FILE),
            front=_read_candidates(folder / PARETO_FILE),
        )
    except SpecError as exc:
        remedy = f"delete {folder}, then give the same command again: what was scored is kept"
        raise SpecError(f"{folder}: damaged ({exc}); {remedy}") from exc
    if result.edge not in [c.arch for c in result.candidates]:
        remedy = f"to use it, set search.arch to a copy; to be rid of it, delete {folder}"
        raise SpecError(f"{folder / EDGE_FILE}: is no candidate of this search; {remedy}")
    return result


def _read_candidates(path: Path) -> tuple[Candidate, ...]:
    try:
        data: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise SpecError(f"{path.name}: cannot be read ({exc})") from exc
    return structure(data, tuple[Candidate, ...], where=path.name)


def _check_shapes(where: str, shape: tuple[int, int, int], num_classes: int, data: Dataset) -> None:
    if (shape, num_classes) != (data.input_shape, data.num_classes):
        got, want = f"{list(shape)}, {num_classes} classes", f"{list(data.input_shape)}, {data.num_classes} classes"
        raise SpecError(f"{where}: is for inputs of {got}, but {data.name} has {want}; change the one or the other")


def _told(advance: Advance) -> Callable[[Candidate], None]:
    best: list[PairScore] = []

    def told(candidate: Candidate) -> None:
        best[:] = sorted([*best, *([candidate.score] if candidate.score else [])], key=_merit)[:1]
        advance(1, f"best pair {best[0].hybrid_accuracy:.1%} at {best[0].mean_latency_ms:.0f} ms" if best else "")

    return told


def _refuse(space: Space, pricing: Pricing[E]) -> None:
    """Raise BudgetError with the needs of the smallest net, where that does not fit."""
    try:
        pricing.check(pricing.estimate(smallest(space)))
    except BudgetError as exc:
        why = "this is the smallest net of the space; loosen the ceilings (search.max_macs and its like)"
        remedy = f"{why} where set, choose a larger device, or a space with narrower widths"
        raise BudgetError(exc.resource, exc.needed, exc.available, exc.device, remedy) from None


def _summary(result: SearchResult, trials: int) -> str:
    chosen, score, counts = result.chosen, result.chosen.best_known, result.counts
    fewer = f" of {trials:,}, for no further one was found" if counts["scored"] < trials else ""
    reached = f"{score.hybrid_accuracy:.1%} with the cloud (at most {score.bound:.1%}), " if score else ""
    return (
        f"scored {counts['scored']:,}{fewer}, {counts['skipped']:,} did not fit; {chosen.arch.name} goes on: {reached}"
        f"{chosen.macs / 1e6:.2f} M MACs, {chosen.latency_ms:.1f} ms"
    )
