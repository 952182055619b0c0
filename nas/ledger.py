"""A search as its own book-keeper sees it: asked for the next net, told what became of it; all of it in a journal.

Whoever runs the trials (this process, keras-tuner's workers, Ray) asks and tells. A proposal follows from the seed, its
number and the scored nets before it alone, so that a search that was killed goes on exactly where it was.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from math import isfinite
from pathlib import Path
from time import perf_counter

import numpy as np

from hybrid.configure import structure
from hybrid.errors import BudgetError, SpecError
from hybrid.specs import ArchSpec
from nas.candidate import Candidate, PairScore
from nas.evolution import propose
from nas.journal import Entry, Journal
from nas.space import Space, smallest

Price = Callable[[ArchSpec], Candidate]
"""What a net costs and whether it fits: status ``fits`` or ``skipped``; thousands a second."""
Score = Callable[[Candidate], PairScore]
"""How good a net is; same net, same score. A BudgetError skips the net, any other error ends the search."""
Told = Callable[[Candidate], None]

MAX_DRAWS = 1000
"""Nets drawn for one trial before the space counts as exhausted."""
MAX_SKIPPED = 1000
"""Nets that do not fit, kept in the record; further ones are forgotten."""


class Ledger:
    """Proposals by number, what is known of each net, and the journal behind it; `told` hears of each scored net.

    At most `trials` are proposed; a trial whose scoring ends in a BudgetError counts.
    Raises: SpecError where the folder is damaged, of another search, in use, or cannot be written.
    """

    def __init__(
        self, space: Space, *, price: Price, trials: int, seed: int, folder: Path, identity: str, told: Told
    ) -> None:
        self.space, self.trials, self.seed, self.identity = space, trials, seed, identity
        self._price, self._told = price, told
        self.candidates: dict[ArchSpec, Candidate] = {}
        self.proposed: list[ArchSpec] = []
        self._proposed: set[ArchSpec] = set()
        self._running: dict[int, ArchSpec] = {}
        self._scored: list[Candidate] = []
        self._skipped = 0
        self._dry_at = -1
        self._journal = Journal(folder, identity=identity)
        try:
            for number, entry in enumerate(self._journal.entries, start=2):
                if not self._follows(entry):
                    raise self._journal.damaged(number, f"{entry.candidate.arch.name} cannot be here")
                self._take(entry)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "Ledger":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def running(self) -> tuple[int, ...]:
        """Numbers of the trials that are proposed and have not ended, lowest first."""
        return tuple(number for number in self._running if number < self.trials)

    def candidate(self, number: int) -> Candidate:
        """Return the net of a trial as it stands."""
        return self.candidates[self.proposed[number]]

    def ask(self) -> int | None:
        """Propose one more net and return its number; None where there are enough, or nothing new is found.

        After None a net that ends may open the way to further ones.
        """
        number = len(self.proposed)
        ended = number - len(self._running)
        if number >= self.trials or self._dry_at == ended:
            return None
        found = self._draw(np.random.default_rng([self.seed, number]))
        if found is None:
            self._dry_at = ended
            return None
        self._record(Entry(trial=number, candidate=found))
        return number

    def tell(self, number: int, outcome: Candidate) -> bool:
        """Note what became of a trial. Only the first answer counts: False for others, and for nets never proposed."""
        if self._running.get(number) != outcome.arch:
            return False
        found = replace(
            self.candidates[outcome.arch],
            score=outcome.score,
            status=outcome.status,
            seconds=outcome.seconds,
            reason=outcome.reason,
        )
        self._record(Entry(trial=number, candidate=found))
        return True

    def close(self) -> None:
        """Let others have the journal."""
        self._journal.close()

    def _draw(self, rng: np.random.Generator) -> Candidate | None:
        for _ in range(MAX_DRAWS):
            if found := self._look(propose(self.space, self._scored, self._proposed, rng, allowed=self._allowed)):
                return found
        return self._look(smallest(self.space)) if not self.proposed else None

    def _allowed(self, arch: ArchSpec) -> bool:
        return self._price(arch).status == "fits"

    def _look(self, arch: ArchSpec) -> Candidate | None:
        """Price a net; one that was met before, or does not fit, is no proposal."""
        if arch in self.candidates:
            return None
        candidate = self._price(arch)
        if candidate.status == "fits":
            return candidate
        if self._skipped < MAX_SKIPPED:
            self._record(Entry(trial=None, candidate=candidate))
        return None

    def _record(self, entry: Entry) -> None:
        self._journal.append(entry)
        self._take(entry)

    def _follows(self, entry: Entry) -> bool:
        """Whether an entry can come next."""
        new = entry.candidate.arch not in self.candidates
        if entry.trial is None:
            return new and entry.candidate.status == "skipped"
        if entry.candidate.status == "fits":
            return new and entry.trial == len(self.proposed)
        return self._running.get(entry.trial) == entry.candidate.arch

    def _take(self, entry: Entry) -> None:
        candidate = entry.candidate
        self.candidates[candidate.arch] = candidate
        if entry.trial is None:
            self._skipped += 1
        elif candidate.status == "fits":
            self.proposed.append(candidate.arch)
            self._proposed.add(candidate.arch)
            self._running[entry.trial] = candidate.arch
        else:
            del self._running[entry.trial]
            if candidate.status == "scored":
                self._scored.append(candidate)
                self._told(candidate)


def evaluate(candidate: Candidate, score: Score) -> Candidate:
    """Score one net; a BudgetError makes it a skipped one.

    Raises: what `score` raises; SpecError where it gives what is no number.
    """
    started = perf_counter()
    try:
        found = score(candidate)
    except BudgetError as exc:
        return replace(candidate, status="skipped", reason=str(exc), seconds=perf_counter() - started)
    if not all(isfinite(value) for value in asdict(found).values()):
        raise SpecError(
            f"{candidate.arch.name}: got a score that is not finite ({found}); look at the data it came from"
        )
    return replace(candidate, status="scored", score=found, seconds=perf_counter() - started)


def to_text(candidate: Candidate) -> str:
    """Pack a candidate for a journey; a decimal point keeps all the digits that keras-tuner's protocol would round."""
    return json.dumps(asdict(candidate))


def from_text(text: str) -> Candidate:
    """Unpack what `to_text` packed. Raises: SpecError."""
    return structure(json.loads(text), Candidate, where="candidate")
