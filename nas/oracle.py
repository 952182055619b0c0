"""The search run by keras-tuner: an Oracle that prices every net before it proposes one, and the Tuner that trains it.

A proposal follows from the seed, its number and the trials before it alone, so that a search that was killed goes on
exactly where it was. ``oracle.json``, replaced in one step around each trial, holds all that this takes; the
``trial_*`` files beside it are keras-tuner's own and only for its tools.
"""

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import keras_tuner
import numpy as np
from keras_tuner.engine.base_tuner import BaseTuner
from keras_tuner.engine.trial import Trial

from hybrid.configure import structure
from hybrid.errors import SpecError
from hybrid.specs import ArchSpec
from nas.candidate import Candidate
from nas.space import GENES, Space, crossover, from_genes, gene_name, genes_of, mutate, sample, smallest

STATE_FILE = "oracle.json"
SAMPLED_FIRST = 3
"""Trials before the first mutation."""
PARENTS = 3
"""The best nets so far, from which mutations and crosses are made."""
SAMPLE_SHARE = 0.25
CROSS_SHARE = 0.25
MAX_DRAWS = 200
"""Nets drawn for one trial before the space counts as exhausted."""

Price = Callable[[ArchSpec], Candidate]
Score = Callable[[ArchSpec], float]
Told = Callable[[Candidate], None]


@dataclass(frozen=True, kw_only=True)
class _State:
    """What a resumed search needs; `identity` is of the question asked (space, data, device, seed)."""

    identity: str
    candidates: tuple[Candidate, ...] = ()


def propose(space: Space, trained: list[Candidate], rng: np.random.Generator) -> ArchSpec:
    """Draw the next net: a sample at first, later mostly a mutation or a cross of the best nets so far."""
    draw = rng.random()
    if len(trained) < SAMPLED_FIRST or draw < SAMPLE_SHARE:
        return sample(space, rng)
    best = sorted(trained, key=lambda c: c.score or 0.0, reverse=True)[:PARENTS]
    a, b = (best[int(i)].arch for i in rng.choice(len(best), size=2, replace=False))
    return crossover(a, b, space, rng) if draw < SAMPLE_SHARE + CROSS_SHARE else mutate(a, space, rng)


class EdgeOracle(keras_tuner.Oracle):
    """Proposes nets that fit; those that do not are recorded as skipped and cost no trial."""

    def __init__(self, space: Space, *, price: Price, trials: int, seed: int, path: Path, identity: str) -> None:
        super().__init__(
            objective=keras_tuner.Objective("accuracy", "max"),
            max_trials=trials,
            hyperparameters=hyperparameters(space),
            seed=seed,
        )
        self.verbose = 0
        self._space, self._price, self._rng_seed = space, price, seed
        self._path, self._identity = path, identity
        self.candidates: dict[ArchSpec, Candidate] = {}

    @property
    def trained(self) -> list[Candidate]:
        """Candidates with a score, in the order of their trials."""
        return [c for c in self.candidates.values() if c.status == "trained"]

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        """Answer keras-tuner's request for the next trial."""
        trained = self.trained
        rng = np.random.default_rng([self._rng_seed, len(trained)])
        for _ in range(MAX_DRAWS):
            if self._fits(arch := propose(self._space, trained, rng)):
                return {"status": "RUNNING", "values": genes_of(arch)}
        if not trained and self._fits(arch := smallest(self._space)):
            return {"status": "RUNNING", "values": genes_of(arch)}
        return {"status": "STOPPED"}

    def _fits(self, arch: ArchSpec) -> bool:
        """Price a new net; one that was seen before, trained or skipped, is no proposal."""
        if arch in self.candidates:
            return False
        candidate = self._price(arch)
        if candidate.status == "skipped":
            self.candidates[arch] = candidate
        return candidate.status == "fits"

    def arch_of(self, trial: Trial) -> ArchSpec:
        """Build the net of a trial from its hyperparameters."""
        return from_genes(trial.hyperparameters.values, self._space)

    def record(self, arch: ArchSpec, *, score: float, seconds: float) -> Candidate:
        """Note what a training gave; it is saved when the trial ends."""
        self.candidates[arch] = replace(self._price(arch), score=score, seconds=seconds, status="trained")
        return self.candidates[arch]

    def save(self) -> None:
        """Write the state beside its old version, then put it in its place in one step."""
        state = _State(identity=self._identity, candidates=tuple(self.candidates.values()))
        self._path.parent.mkdir(parents=True, exist_ok=True)
        fresh = self._path.with_suffix(".new")
        fresh.write_text(json.dumps(asdict(state), indent=1), encoding="utf-8")
        os.replace(fresh, self._path)

    def reload(self) -> None:
        """Take up a saved search. Raises: SpecError where the file is damaged or of another search."""
        state = _read_state(self._path)
        if state.identity != self._identity:
            what = "holds the search of another space, data, device, seed or training"
            raise SpecError(f"{self._path}: {what}; choose another run folder, or delete {self._path.parent}")
        self.candidates = {c.arch: c for c in state.candidates}
        for number, candidate in enumerate(self.trained):
            self._restore(f"{number:0{len(str(self.max_trials))}d}", candidate)

    def _restore(self, trial_id: str, candidate: Candidate) -> None:
        values = self.hyperparameters.copy()
        values.values = genes_of(candidate.arch)
        trial = Trial(values, trial_id=trial_id, status="COMPLETED")
        trial.score = candidate.score
        self.trials[trial_id] = trial
        self.start_order.append(trial_id)
        self.end_order.append(trial_id)


def _read_state(path: Path) -> _State:
    try:
        return structure(json.loads(path.read_text(encoding="utf-8")), _State, where="state")
    except (OSError, ValueError) as exc:
        raise SpecError(f"{path}: the search's state is damaged ({exc}); delete {path.parent} to search anew") from exc


def hyperparameters(space: Space) -> keras_tuner.HyperParameters:
    """Declare the space's genes to keras-tuner: a stage's genes are active where the net has that stage."""
    declared = keras_tuner.HyperParameters()
    declared.Choice("stages", list(space.num_stages))
    for index, choices in enumerate(space.positions[: max(space.num_stages) + 1]):
        counts = [count for count in space.num_stages if count >= index]
        with declared.conditional_scope("stages", counts):
            for name in GENES[:-1]:
                declared.Choice(gene_name(index, name), list(getattr(choices, name)))
            with declared.conditional_scope(gene_name(index, "kind"), ["ib"]):
                declared.Choice(gene_name(index, GENES[-1]), list(choices.expansion))
    return declared


class EdgeTuner(BaseTuner):
    """Trains what the oracle proposes. The oracle's file is the only state, so that keras-tuner keeps none here."""

    oracle: EdgeOracle

    def __init__(self, oracle: EdgeOracle, *, score: Score, told: Told, folder: Path) -> None:
        super().__init__(oracle, directory=str(folder.parent), project_name=folder.name)
        self._score, self._told = score, told

    def run_trial(self, trial: Trial) -> dict[str, float]:
        """Train one net. An error ends the search: keras-tuner would hide it and try the next."""
        arch = self.oracle.arch_of(trial)
        started = perf_counter()
        try:
            score = self._score(arch)
        except Exception as exc:
            raise keras_tuner.errors.FatalError(str(exc)) from exc
        self._told(self.oracle.record(arch, score=score, seconds=perf_counter() - started))
        return {"accuracy": score}

    def save(self) -> None:
        """Leave the saving to the oracle."""


def explore(
    space: Space,
    *,
    price: Price,
    score: Score,
    trials: int,
    seed: int,
    folder: Path,
    identity: str,
    told: Told = lambda candidate: None,
) -> tuple[Candidate, ...]:
    """Search `space`, or go on with the search that `folder` holds; every candidate in the order it was met.

    `price` says what a net costs and whether it fits, `score` trains it; `told` hears of each trained net, and of those
    that a resumed search brings along. `identity` names the question, so that a folder is not taken for another one's.
    Raises: SpecError where the folder is damaged or holds another search; what `score` raises.
    """
    oracle = EdgeOracle(space, price=price, trials=trials, seed=seed, path=folder / STATE_FILE, identity=identity)
    if (folder / STATE_FILE).exists():
        oracle.reload()
    for candidate in oracle.trained:
        told(candidate)
    try:
        EdgeTuner(oracle, score=score, told=told, folder=folder).search()
    except keras_tuner.errors.FatalError as exc:
        raise (exc.__cause__ or exc) from None
    return tuple(oracle.candidates.values())
