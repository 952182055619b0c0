"""Does the edge lose more than so much accuracy to the cloud? An exact test for paired right and wrong answers.

Each of `n` examples is lost (edge kept and wrong, cloud right), won (the reverse) or neither: a trinomial. The loss is
the difference of two of its chances; the third degree of freedom is a nuisance.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import special

Array = NDArray[np.float64]
Counts = NDArray[np.int64]

_BERGER_BOOS = 1e-4
"""Chance that the nuisance parameter lies outside its interval; it is added to the p-value."""
_NUISANCE_POINTS = 40
_TAIL_SD = 7.0


@lru_cache(maxsize=1 << 16)
def loss_p_value(lost: int, won: int, n: int, max_loss: float) -> float:
    """P-value of "keeping loses more than `max_loss`", exact for a trinomial with unknown nuisance.

    Among `n` examples the edge was kept and wrong where the cloud was right `lost` times, the reverse `won` times. The
    score statistic (Tango 1998) orders the outcomes; its tail is summed exactly and maximised over the
    chance of a win within its Clopper-Pearson interval (Berger and Boos 1994).
    """
    if max_loss >= 1:
        return 0.0  # nobody can lose more than all
    observed = _score(np.array([lost]), np.array([won]), n, max_loss)[0]
    low, high = _interval(won, n)
    nuisance = np.linspace(np.sqrt(low), np.sqrt(high), _NUISANCE_POINTS) ** 2
    return min(1.0, float(_tail(observed, nuisance, n, max_loss).max()) + _BERGER_BOOS)


def _interval(count: int, n: int) -> tuple[float, float]:
    """Clopper-Pearson, two-sided."""
    half = _BERGER_BOOS / 2
    low = float(special.betaincinv(count, n - count + 1, half)) if count else 0.0
    high = float(special.betaincinv(count + 1, n - count, 1 - half)) if count < n else 1.0
    return low, high


def _score(lost: Counts, won: Counts, n: int, max_loss: float) -> Array:
    """(lost - won - n max_loss) over its standard deviation where the loss is just `max_loss`."""
    linear = (lost + won) * (1 - max_loss) - 2 * (n - lost) * max_loss
    root = np.sqrt(linear**2 + 8 * n * won * max_loss * (1 - max_loss))
    chance = (linear + root) / (4 * n)
    variance = n * (2 * chance + max_loss - max_loss**2)
    difference = lost - won - n * max_loss
    return np.divide(difference, np.sqrt(variance), out=np.zeros(len(lost)), where=variance > 0)


def _tail(observed: float, chance_won: Array, n: int, max_loss: float) -> Array:
    """P(score <= observed) for each `chance_won`, where the chance of a loss is `max_loss` higher."""
    chance_won = np.minimum(chance_won, (1 - max_loss) / 2)
    chance_lost = chance_won + max_loss
    most = n * chance_lost.max()
    lost = np.arange(min(n, int(most + _TAIL_SD * np.sqrt(most) + 10)) + 1)
    won = _least_won(observed, lost, n, max_loss)
    p = chance_lost[:, np.newaxis]
    log_pmf = special.xlogy(lost, p) + special.xlog1py(n - lost, -p) + _log_choose(n, len(lost))
    conditional = (chance_won / (1 - chance_lost))[:, np.newaxis]
    enough = np.where(won > n - lost, 0.0, np.where(won > 0, special.bdtrc(won - 1.0, n - lost, conditional), 1.0))
    beyond = special.bdtrc(float(lost[-1]), n, chance_lost)
    return (np.exp(log_pmf) * enough).sum(axis=1) + beyond


def _least_won(observed: float, lost: Counts, n: int, max_loss: float) -> Counts:
    """Fewest wins that, beside each count of `lost`, score at most `observed`; ``n - lost + 1`` where none does."""
    low, high = np.zeros_like(lost), n - lost + 1
    while np.any(low < high):
        middle = (low + high) // 2
        reached = _score(lost, middle, n, max_loss) <= observed + 1e-9
        low, high = np.where(reached, low, np.minimum(middle + 1, high)), np.where(reached, middle, high)
    return low


def _log_choose(n: int, count: int) -> Array:
    k = np.arange(count)
    return special.gammaln(n + 1) - special.gammaln(k + 1) - special.gammaln(n - k + 1)
