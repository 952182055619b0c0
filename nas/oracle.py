"""The search as keras-tuner knows it: the Oracle that proposes, and the one call that searches, alone or with others.

What the Oracle knows is in its ledger's journal; keras-tuner's own files (``oracle.json``, ``trial_*``) are not
written: they cost more than the search itself, and a kill between two of them loses a trial.
"""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from threading import RLock
from time import monotonic
from typing import Any, TypeVar

import keras_tuner
from keras_tuner.engine.trial import Trial, TrialStatus

from hybrid.errors import ClusterError
from nas.candidate import Candidate
from nas.ledger import Ledger, Price, Score, Told, from_text, to_text
from nas.space import GENES, Space, gene_name, genes_of
from nas.tuner import CANDIDATE, MAXIMISED, OBJECTIVE, PairTuner, metrics_of

T = TypeVar("T")
ADDRESS = "KERASTUNER_ORACLE_IP"
"""Variable of keras-tuner that is set where chief and workers share a search."""
QUESTION = "question"
"""Fixed hyperparameter that names what is searched for, so that a worker of another search is found out."""
MAX_FAILURES = 3
"""Workers that may fail on one trial before the search ends."""


def hyperparameters(space: Space) -> keras_tuner.HyperParameters:
    """Declare the space's genes to keras-tuner: a stage's genes are active where the net has that stage."""
    declared = keras_tuner.HyperParameters()
    declared.Choice("stages", list(space.num_stages))
    declared.Choice("input_pool", list(space.input_pool))
    declared.Choice("grey", list(space.grey))
    for index, choices in enumerate(space.positions[: max(space.num_stages) + 1]):
        counts = [count for count in space.num_stages if count >= index]
        with declared.conditional_scope("stages", counts):
            for name in GENES[:-1]:
                declared.Choice(gene_name(index, name), list(getattr(choices, name)))
            with declared.conditional_scope(gene_name(index, "kind"), ["ib"]):
                declared.Choice(gene_name(index, GENES[-1]), list(choices.expansion))
    return declared


def question(space: Space, identity: str) -> keras_tuner.HyperParameters:
    """Return the one hyperparameter that chief and workers compare: a digest of `identity` and the space's genes."""
    asked = json.dumps([identity, hyperparameters(space).get_config()])
    fixed = keras_tuner.HyperParameters()
    fixed.Fixed(QUESTION, hashlib.sha256(asked.encode()).hexdigest())
    return fixed


def _synchronized(method: Callable[..., T]) -> Callable[..., T]:
    """Let one thread at a time into an oracle; keras-tuner's decorator of this name keeps its lock after an error."""

    @wraps(method)
    def locked(self: "PairOracle", *args: Any, **kwargs: Any) -> T:
        with self._lock:
            return method(self, *args, **kwargs)

    return locked


@dataclass(frozen=True)
class _Lease:
    tuner_id: str
    until: float


class PairOracle(keras_tuner.Oracle):
    """Hands out the ledger's trials, each to one worker for `lease_s` seconds, and takes the first answer to each.

    A worker that dies or never returns loses its trial to the next that asks once the lease is over. While others run
    the last trials, whoever asks is told to wait; once all have ended, to stop.
    """

    def __init__(self, ledger: Ledger, *, lease_s: float, clock: Callable[[], float] = monotonic) -> None:
        super().__init__(
            objective=OBJECTIVE,
            max_trials=ledger.trials,
            hyperparameters=hyperparameters(ledger.space),
            allow_new_entries=False,
            seed=ledger.seed,
        )
        self.verbose = 0
        self.ledger = ledger
        self._lease_s, self._clock = lease_s, clock
        self._question = question(ledger.space, ledger.identity)
        self._lock = RLock()
        self._leases: dict[int, _Lease] = {}
        self._failures: dict[int, int] = {}
        for number in range(len(ledger.proposed)):
            self._note_end(number)

    def get_space(self) -> keras_tuner.HyperParameters:
        """Return the question alone, for workers: keras-tuner prints each condition of a space that it sends."""
        return self._question.copy()

    @_synchronized
    def goes_on(self) -> bool:
        """Whether a trial runs, or one more can be proposed, which is then done."""
        return bool(self.ledger.running) or self.ledger.ask() is not None

    @_synchronized
    def create_trial(self, tuner_id: str) -> Trial:
        """Lend a trial to a worker: the one it has already, one that nobody has, or a new one."""
        number = self._next(tuner_id)
        if number is None:
            status = TrialStatus.IDLE if self.ledger.running else TrialStatus.STOPPED
            return Trial(keras_tuner.HyperParameters(), trial_id="", status=status)
        self._leases[number] = _Lease(tuner_id, self._clock() + self._lease_s)
        self.ongoing_trials[tuner_id] = self._trial(number)
        return self.ongoing_trials[tuner_id]

    def _next(self, tuner_id: str) -> int | None:
        now = self._clock()
        leases = {number: self._leases.get(number) for number in self.ledger.running}
        own = [number for number, lease in leases.items() if lease is not None and lease.tuner_id == tuner_id]
        free = [number for number, lease in leases.items() if lease is None or lease.until <= now]
        return next(iter(own + free), None) if own or free else self.ledger.ask()

    @_synchronized
    def update_trial(self, trial_id: str, metrics: dict[str, float], step: int = 0) -> Trial:
        """Leave the metrics to `end_trial`, which has them without keras-tuner's rounding."""
        return self.get_trial(trial_id)

    @_synchronized
    def end_trial(self, trial: Trial) -> None:
        """Take the answer to a trial, the first time it comes; one that failed goes to the next who asks.

        Raises: ClusterError where several workers failed on it.
        """
        number, outcome = int(trial.trial_id), from_text(trial.hyperparameters.values[CANDIDATE])
        self._leases.pop(number, None)
        for tuner_id in [who for who, lent in self.ongoing_trials.items() if lent.trial_id == trial.trial_id]:
            del self.ongoing_trials[tuner_id]
        if outcome.status == "failed" and number in self.ledger.running:
            self._note_failure(number, outcome)
        elif outcome.status != "failed" and self.ledger.tell(number, outcome):
            self._note_end(number)

    def _note_failure(self, number: int, outcome: Candidate) -> None:
        self._failures[number] = self._failures.get(number, 0) + 1
        if self._failures[number] >= MAX_FAILURES:
            what = f"trial {number} ({outcome.arch.name}) failed {MAX_FAILURES} times, last with {outcome.reason}"
            raise ClusterError(f"{what}; mend that, then start the chief again: what came before is kept")

    def _note_end(self, number: int) -> None:
        """Tell keras-tuner's own tables of a trial that has ended."""
        candidate = self.ledger.candidate(number)
        if candidate.status == "fits":
            return
        trial = self._trial(number)
        trial.status = TrialStatus.FAILED if candidate.score is None else TrialStatus.COMPLETED
        for name, value in metrics_of(candidate).items():
            trial.metrics.register(name, direction="max" if name in MAXIMISED else "min")
            trial.metrics.update(name, value)
        trial.score = None if candidate.score is None else candidate.score.expected_accuracy
        self.end_order.append(trial.trial_id)

    def _trial(self, number: int) -> Trial:
        candidate = self.ledger.candidate(number)
        trial_id = str(number)
        if trial_id not in self.trials:
            parameters = self.get_space()
            parameters.values |= genes_of(candidate.arch)
            self.trials[trial_id] = Trial(parameters, trial_id=trial_id)
            self.start_order.append(trial_id)
        self.trials[trial_id].hyperparameters.values[CANDIDATE] = to_text(candidate)
        return self.trials[trial_id]

    def get_trial(self, trial_id: str) -> Trial:
        """Return a trial; an empty one where a worker brings what another chief proposed."""
        return self.trials.get(trial_id) or Trial(keras_tuner.HyperParameters(), trial_id=trial_id)

    def save(self) -> None:
        """Leave the saving to the ledger."""

    def reload(self) -> None:
        """Leave the loading to the ledger."""


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
    lease_s: float = 600.0,
    patience_s: float = 300.0,
) -> tuple[Candidate, ...]:
    """Search `space`, or go on with the search that `folder` holds; every candidate in the order it was met.

    `told` hears of each scored net, and of those that a resumed search brings along. `identity` names the question, so
    that a folder is not taken for another one's. Where keras-tuner's variables (`nas.distributed.role`) make this
    process the chief of a search on many machines, it prices, proposes and keeps `folder`, and lends each trial for
    `lease_s` seconds, more than any score takes; a worker only scores, waits `patience_s` for a chief that does not
    answer, and returns nothing: the chief has it all.
    Raises: SpecError where the folder is damaged, in use, full, or holds another search, ClusterError where chief and
    workers do not find each other; what `score` raises.
    """
    if in_cluster := ADDRESS in os.environ:
        from nas import distributed

        if distributed.role() == "worker":
            distributed.work(question(space, identity), score=score, told=told, folder=folder, patience_s=patience_s)
            return ()
    with Ledger(space, price=price, trials=trials, seed=seed, folder=folder, identity=identity, told=told) as ledger:
        oracle = PairOracle(ledger, lease_s=lease_s)
        if in_cluster:
            distributed.serve(oracle)
        else:
            PairTuner(oracle, score=score, folder=folder).explore()
        return tuple(ledger.candidates.values())
