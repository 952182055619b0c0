"""Which edge net?  What fits the device, and of that, what learns best.

Costs come before training: a net that does not fit is skipped and recorded with the reason, and never ends the search.
Costs are passed in as functions, so that this module knows neither devices nor flatbuffers.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from datasets.dataset import Dataset
from hybrid.artifacts import Device
from hybrid.configure import read_toml, structure, to_toml
from hybrid.errors import BudgetError, SpecError
from hybrid.progress import SILENT, Advance, Narrator
from hybrid.specs import ArchSpec, SearchSpec
from nas.candidate import Candidate
from nas.score import held_out, short_training, standard_error
from nas.space import Space, smallest

WINNER_FILE = "edge.toml"
CANDIDATES_FILE = "candidates.json"


class Cost(Protocol):
    """What an estimate must tell of a net."""

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one inference."""

    @property
    def flash_bytes(self) -> int:
        """Bytes of the model in flash."""

    @property
    def peak_sram_bytes(self) -> int:
        """Bytes of activations at the worst moment."""


E = TypeVar("E", bound=Cost)


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """The net that goes on to full training, and every net that was looked at, in order."""

    winner: ArchSpec
    candidates: tuple[Candidate, ...]


def search(
    space: Space,
    *,
    data: Dataset,
    device: Device,
    spec: SearchSpec,
    seed: int,
    estimate: Callable[[ArchSpec], E],
    fits: Callable[[E], None],
    latency_ms: Callable[[E], float],
    folder: Path,
    narrator: Narrator = SILENT,
) -> SearchResult:
    """Find the edge net for `device`, or price the one that ``spec.arch`` gives.

    `fits` raises BudgetError for what `device` cannot hold. `folder` keeps the state: after an interruption the
    same call goes on where it was, also with more ``spec.trials``.
    Raises: BudgetError where no net fits, with the needs of the smallest; SpecError for a space or net of other shapes,
    or a folder that is damaged or holds another search.
    """
    pricing = _Pricing(estimate=estimate, fits=fits, latency_ms=latency_ms, spec=spec, device=device)
    if spec.arch:
        return _given(Path(spec.arch), data, pricing)
    _check(space, spec, data)
    from nas.oracle import explore  # loads TensorFlow

    fit_rows, score_rows = held_out(data, rows=spec.rows, seed=seed)
    with narrator.track("search", spec.trials) as advance:
        candidates = explore(
            space,
            price=pricing.price,
            score=short_training(fit=fit_rows, score=score_rows, epochs=spec.epochs, seed=seed),
            trials=spec.trials,
            seed=seed,
            folder=folder,
            identity=_identity(space, data, device, spec, seed),
            told=_told(advance),
        )
    if not any(c.status == "trained" for c in candidates):
        _refuse(space, pricing)
    winner = choose(candidates, score_rows=len(score_rows), tolerance=spec.noise_tolerance)
    narrator.say(_summary(winner, candidates))
    return SearchResult(winner=winner.arch, candidates=candidates)


def choose(candidates: tuple[Candidate, ...], *, score_rows: int, tolerance: float = 1.0) -> Candidate:
    """Choose the fastest of the trained nets whose accuracy is within the noise of the best.

    The noise is `tolerance` binomial standard errors of the best accuracy on its `score_rows` examples (1: the
    one-standard-error rule of Breiman et al., Classification and Regression Trees, 1984). Equal latency: higher
    accuracy, then first met.
    """
    scored = [(c.score, c) for c in candidates if c.score is not None]
    best = max(score for score, _ in scored)
    near = [(score, c) for score, c in scored if score >= best - tolerance * standard_error(best, score_rows)]
    return min(near, key=lambda pair: (pair[1].latency_ms, -pair[0]))[1]


def write(result: SearchResult, folder: Path) -> None:
    """Write the winner as ``edge.toml`` and the candidates as ``candidates.json``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / WINNER_FILE).write_text(to_toml(result.winner), encoding="utf-8")
    (folder / CANDIDATES_FILE).write_text(json.dumps(asdict(result), indent=1) + "\n", encoding="utf-8")


def read(folder: Path) -> SearchResult:
    """Read what `write` wrote. Raises: SpecError naming the file that is missing or damaged."""
    path = folder / CANDIDATES_FILE
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise SpecError(f"{path}: cannot be read ({exc}); run the search again") from exc
    result = structure(data, SearchResult, where=str(path))
    return replace(result, winner=structure(read_toml(folder / WINNER_FILE), ArchSpec, where=WINNER_FILE))


@dataclass(frozen=True, kw_only=True)
class _Pricing(Generic[E]):
    """The costs of nets, against the device and the spec's ceilings."""

    estimate: Callable[[ArchSpec], E]
    fits: Callable[[E], None]
    latency_ms: Callable[[E], float]
    spec: SearchSpec
    device: Device

    def check(self, cost: E) -> None:
        """Raise BudgetError where a net of this cost cannot be used."""
        self.fits(cost)
        for name, limit in (("macs", self.spec.max_macs), ("flash_bytes", self.spec.max_flash_bytes)):
            if limit and getattr(cost, name) > limit:
                key = f"search.max_{name}"
                where, remedy = f"{self.device.name} under {key}", f"raise {key} (0: no ceiling)"
                raise BudgetError(name, getattr(cost, name), limit, where, remedy)

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


def _given(path: Path, data: Dataset, pricing: _Pricing[E]) -> SearchResult:
    arch = structure(read_toml(path), ArchSpec, where=str(path))
    _check_shapes(str(path), arch.input_shape, arch.num_classes, data)
    names = ("width", "stride", "kernel", "depth", "expansion")
    if min((getattr(block, name) for block in arch.blocks for name in names), default=0) < 1:
        raise SpecError(f"{path}: needs one block or more, with {', '.join(names)} of 1 or more")
    pricing.check(pricing.estimate(arch))
    return SearchResult(winner=arch, candidates=(pricing.price(arch),))


def _check(space: Space, spec: SearchSpec, data: Dataset) -> None:
    _check_shapes(spec.space or "search space", space.input_shape, space.num_classes, data)
    if spec.epochs < 1:
        raise SpecError(f"search.epochs: got {spec.epochs}, allowed 1 or more")


def _check_shapes(where: str, shape: tuple[int, int, int], num_classes: int, data: Dataset) -> None:
    if (shape, num_classes) != (data.input_shape, data.num_classes):
        got, want = f"{list(shape)}, {num_classes} classes", f"{list(data.input_shape)}, {data.num_classes} classes"
        raise SpecError(f"{where}: is for inputs of {got}, but {data.name} has {want}; change the one or the other")


def _told(advance: Advance) -> Callable[[Candidate], None]:
    best: list[Candidate] = []

    def told(candidate: Candidate) -> None:
        best[:] = [max([*best, candidate], key=lambda c: c.score or 0.0)]
        advance(1, f"{candidate.arch.name} {candidate.score:.1%}, best {best[0].arch.name} {best[0].score:.1%}")

    return told


def _identity(space: Space, data: Dataset, device: Device, spec: SearchSpec, seed: int) -> str:
    """Name the question; the number of trials is no part of it, so that a search can be prolonged."""
    asked = [asdict(space), data.digest, asdict(device), asdict(replace(spec, trials=1, space="")), seed]
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()


def _refuse(space: Space, pricing: _Pricing[E]) -> None:
    """Raise BudgetError with the needs of the smallest net, which the search has tried when all else did not fit."""
    try:
        pricing.check(pricing.estimate(smallest(space)))
    except BudgetError as exc:
        why = "this is the smallest net of the space; loosen search.max_macs or search.max_flash_bytes where set"
        remedy = f"{why}, choose a larger device, or a space with narrower widths"
        raise BudgetError(exc.resource, exc.needed, exc.available, pricing.device.name, remedy) from None


def _summary(winner: Candidate, candidates: tuple[Candidate, ...]) -> str:
    trained = sum(c.status == "trained" for c in candidates)
    skipped = sum(c.status == "skipped" for c in candidates)
    return (
        f"tried {trained}, {skipped} did not fit; {winner.arch.name} goes on, with {winner.score:.1%} after the"
        f" short training, {winner.macs / 1e6:.2f} M MACs, {winner.latency_ms:.1f} ms"
    )
