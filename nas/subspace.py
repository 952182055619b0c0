"""The space is fitted to the device before nets are: of several sub-spaces, the one whose feasible nets compute most.

TinyNAS's idea (Lin et al., MCUNet, 2020): where nets that fit can afford more MACs, the best of them is more accurate.
"""

from collections.abc import Callable, Sequence

import numpy as np

from hybrid.specs import ArchSpec
from nas.candidate import Candidate
from nas.space import Space, sample

WIDTHS = (0.5, 0.75, 1.0, 1.5, 2.0)
"""By which the widths of the default space are multiplied, one sub-space each."""
DRAWS = 200
"""Nets drawn from each sub-space."""
LEAST_SHARE = 0.2
"""Of the draws that must fit: the supernet and the search spend no more than four fifths of their draws in vain."""


def fitted(spaces: Sequence[Space], price: Callable[[ArchSpec], Candidate], *, seed: int) -> Space:
    """Return the space whose feasible nets have the most MACs in the mean, of those of which enough nets fit.

    `price` says what a net costs and whether it fits. Where of none enough nets fit: the space of which most do.
    """

    def merit(space: Space) -> tuple[float, float]:
        rng = np.random.default_rng(seed)
        priced = [price(sample(space, rng)) for _ in range(DRAWS)]
        macs = [candidate.macs for candidate in priced if candidate.status == "fits"]
        share = len(macs) / DRAWS
        return min(share, LEAST_SHARE), float(np.mean(macs)) if macs else 0.0

    return max(spaces, key=merit)
