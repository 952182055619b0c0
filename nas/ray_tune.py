"""The same search run by Ray Tune, on one machine or a cluster that Ray knows; needs the extra ``ray``.

Ray's workers score, this process proposes and keeps the journal, which `nas.oracle.explore` reads as well. Ray runs a
trial whose worker died again.
"""

import tempfile
from pathlib import Path
from typing import Any

from hybrid.errors import ClusterError, SpecError
from nas.candidate import Candidate
from nas.ledger import Ledger, Price, Score, Told, evaluate, from_text, to_text
from nas.space import Space
from nas.tuner import CANDIDATE, metrics_of

try:
    from ray import tune
    from ray.tune.search import Searcher
except ImportError as exc:
    raise SpecError(
        f"Ray Tune cannot be loaded ({exc}); install the extra: pip install 'hybrid-edge-cloud[ray]'"
    ) from exc

RETRIES = 2
"""How often Ray runs a trial again whose scoring or worker failed."""


def explore_with_ray(
    space: Space,
    *,
    price: Price,
    score: Score,
    trials: int,
    seed: int,
    folder: Path,
    identity: str,
    told: Told = lambda candidate: None,
    workers: int = 2,
    cpus: float = 1.0,
) -> tuple[Candidate, ...]:
    """Search like `nas.oracle.explore`, with `workers` trials at a time, each on `cpus` cores.

    `score` is pickled and sent to each worker once. The order in which trials end, and so the search, varies from run
    to run where there are several workers. A Ray that runs already is used, else one is started here.
    Raises: SpecError as `explore` does; ClusterError where a trial failed more than `RETRIES` times, with its cause.
    """
    with Ledger(space, price=price, trials=trials, seed=seed, folder=folder, identity=identity, told=told) as ledger:
        searcher = _Searcher(ledger)
        with tempfile.TemporaryDirectory(prefix="hybrid-ray-") as storage:
            outcome = tune.Tuner(
                tune.with_resources(tune.with_parameters(_Scoring, score=score), {"cpu": cpus}),
                tune_config=tune.TuneConfig(
                    search_alg=searcher,
                    num_samples=-1,
                    max_concurrent_trials=workers,
                    reuse_actors=True,
                    trial_name_creator=lambda trial: f"trial-{trial.trial_id}",
                    trial_dirname_creator=lambda trial: trial.trial_id,
                ),
                run_config=tune.RunConfig(
                    name="search",
                    storage_path=storage,
                    verbose=0,
                    checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                    failure_config=tune.FailureConfig(max_failures=RETRIES),
                ),
            ).fit()
        if searcher.failed:
            what = f"trial {searcher.failed[0]} failed {RETRIES + 1} times, last with {_last_line(outcome.errors)}"
            raise ClusterError(f"{what}; mend that, then give the same command again: what came before is kept")
        return tuple(ledger.candidates.values())


def _last_line(errors: list[Exception]) -> str:
    """Return what went wrong on the worker; Ray's errors are tracebacks as text."""
    lines = [line for error in errors[:1] for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else "no word of why"


class _Searcher(Searcher):
    """Asks the ledger for Ray, and tells it what Ray says."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__()  # no metric: Ray would insist on it for a net that turns out not to fit
        self._ledger = ledger
        self._waiting = list(ledger.running)  # proposed before a kill
        self._running: dict[str, int] = {}
        self.failed: list[int] = []

    def suggest(self, trial_id: str) -> dict[str, str] | str | None:
        """Return the next net, None to wait for those that run, FINISHED at the end."""
        number = self._waiting.pop(0) if self._waiting else self._ledger.ask()
        if self.failed or number is None:
            return None if self._running else Searcher.FINISHED
        self._running[trial_id] = number
        return {CANDIDATE: to_text(self._ledger.candidate(number))}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Take the outcome of a trial."""
        number = self._running.pop(trial_id)
        if error or not result or CANDIDATE not in result:
            self.failed.append(number)
        else:
            self._ledger.tell(number, from_text(result[CANDIDATE]))

    def __getstate__(self) -> dict[str, Any]:
        """Keep Ray's own checkpoints empty: the journal is what a search goes on from."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Leave the saving to the ledger."""

    def restore(self, checkpoint_path: str) -> None:
        """Leave the loading to the ledger."""


class _Scoring(tune.Trainable):
    """One worker of Ray; it outlives its trials, so that `score` comes to it once."""

    def setup(self, config: dict[str, str], score: Score) -> None:
        """Take the first net."""
        self._config, self._score = config, score

    def reset_config(self, new_config: dict[str, str]) -> bool:
        """Take the next net."""
        self._config = new_config
        return True

    def step(self) -> dict[str, Any]:
        """Score it."""
        outcome = evaluate(from_text(self._config[CANDIDATE]), self._score)
        return {**metrics_of(outcome), CANDIDATE: to_text(outcome), "done": True}
