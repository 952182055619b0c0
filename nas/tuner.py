"""The Tuner: scores what an Oracle proposes, here or behind a chief, and says what it found.

A net travels whole, as text among its trial's hyperparameters: keras-tuner's protocol has room for metrics only, in
single precision, and the record of a search on many machines shall not differ from that of one.
"""

from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path

import keras_tuner
from keras_tuner.engine.base_tuner import BaseTuner
from keras_tuner.engine.trial import Trial
from keras_tuner.errors import FailedTrialError, FatalError

from hybrid.errors import ClusterError
from nas.candidate import Candidate
from nas.ledger import Score, Told, evaluate, from_text, to_text

CANDIDATE = "candidate"
"""Name of the hyperparameter that holds the whole candidate."""
OBJECTIVE = keras_tuner.Objective("expected_accuracy", "max")
MAXIMISED = ("expected_accuracy", "hybrid_accuracy", "edge_accuracy", "bound", "coverage")
COSTS = ("macs", "flash_bytes", "peak_sram_bytes", "latency_ms")


def metrics_of(candidate: Candidate) -> dict[str, float]:
    """Return a net's costs and scores by name, for keras-tuner's tables."""
    costs = {name: float(getattr(candidate, name)) for name in COSTS}
    scores = {} if candidate.score is None else asdict(candidate.score)
    return costs | {name: float(value) for name, value in scores.items()}


class PairTuner(BaseTuner):
    """Runs the oracle's trials one after the other; `told` hears of each net scored here."""

    def __init__(
        self, oracle: keras_tuner.Oracle, *, score: Score, folder: Path, told: Told = lambda candidate: None
    ) -> None:
        super().__init__(oracle, directory=str(folder.parent), project_name=folder.name)
        self._score, self._told = score, told
        self.outcomes: list[Candidate] = []

    def explore(self) -> None:
        """Search to the end. Raises: what scoring raised."""
        try:
            self.search()
        except FatalError as exc:
            raise (exc.__cause__ or exc) from None

    def run_trial(self, trial: Trial) -> dict[str, float]:
        """Score one net. An error, which keras-tuner would hide, gives the trial back and ends the search here."""
        candidate = from_text(trial.hyperparameters.values[CANDIDATE])
        try:
            outcome = evaluate(candidate, self._score)
        except Exception as exc:
            failed = replace(candidate, status="failed", reason=f"{type(exc).__name__}: {exc}")
            trial.hyperparameters.values[CANDIDATE] = to_text(failed)
            with suppress(ClusterError):  # the error at hand says more
                self.oracle.end_trial(trial)
            raise FatalError(str(exc)) from exc
        trial.hyperparameters.values[CANDIDATE] = to_text(outcome)
        self.outcomes.append(outcome)
        if outcome.score is None:
            raise FailedTrialError(outcome.reason)
        self._told(outcome)
        return metrics_of(outcome)

    def save(self) -> None:
        """Leave the saving to the oracle's journal."""
