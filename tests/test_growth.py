"""What training of its own does for a net: the law by hand, what probes teach, and which nets are probes."""

from dataclasses import dataclass, replace
from math import log

import numpy as np
import pytest

from hybrid.cost import estimate
from nas.growth import PRIOR_SPREAD, Growth, Probe, learned, probe_nets
from nas.space import edge_space, sample, widened

SPACE = edge_space((32, 32, 3), 10, kinds=("ds",))
PRIOR = Growth(least_mixing_macs=1_000_000, least_mixing_layers=4, mixing=0.2)
MOST_MACS = 6_000_000


@dataclass(frozen=True)
class Net:
    macs: int
    mixing_macs: int
    mixing_layers: int = 4


def probe(net, left, mendable=0.2, shared=0.6, gain_error=0.001):
    """As if training had left so much of what the cloud knows better."""
    alone = shared + (1 - left) * mendable
    return Probe(
        macs=net.macs,
        mixing_macs=net.mixing_macs,
        mixing_layers=net.mixing_layers,
        shared_accuracy=shared,
        mendable=mendable,
        alone_accuracy=alone,
        gain_error=gain_error,
    )


def allowed(arch):
    return estimate(arch).macs <= MOST_MACS


def test_the_share_of_errors_left_by_hand():
    # 0.9 of all, halved by 4 = 2 ** 2 times the MACs that mix channels, a tenth more for a tenth of depthwise MACs.
    growth = Growth(least_mixing_macs=1_000_000, offset=log(0.9), mixing=0.5, spatial=1.0)
    assert growth.errors_left(Net(4_400_000, 4_000_000)) == pytest.approx(0.9 * 0.5 * 1.1)
    assert growth.errors_left(Net(1_000_000, 1_000_000)) == pytest.approx(0.9)
    assert growth.errors_left(Net(500_000, 400_000)) == pytest.approx(0.9 * 1.25)  # as the least net, but for spatial
    assert growth.errors_left(Net(4_000_000, 400_000)) == 2.0  # not 9
    assert Growth().errors_left(Net(5, 4)) == 1.0
    deep = replace(growth, least_mixing_layers=4, depth=0.5)  # of 16 layers in terms of 4 half the errors are left
    assert deep.errors_left(Net(1_000_000, 1_000_000, 16)) == pytest.approx(0.45)
    assert deep.errors_left(Net(1_000_000, 1_000_000, 3)) == pytest.approx(0.9)


def test_what_a_probe_kept_of_its_errors_by_hand():
    # 60 % right, the cloud knows better in 20 %; alone 75 % are right: of the 20 points 15 were gained, a quarter left.
    assert probe(Net(1, 1), left=0.25).errors_left == pytest.approx(0.25)
    assert replace(probe(Net(1, 1), left=0.25), alone_accuracy=0.9).errors_left == 0.05  # more than the cloud knew
    assert replace(probe(Net(1, 1), left=0.25), mendable=0.0).errors_left == 0.05
    assert probe(Net(1, 1), left=3.0).errors_left == 2.0


def test_a_probe_is_believed_as_far_as_it_can_know():
    # 0.3 points of error on 0.2 * 0.75 of mended errors are 2 % of the share; 5 % are luck: hypot(0.02, 0.05).
    assert probe(Net(1, 1), left=0.75, gain_error=0.003).noise == pytest.approx(0.0538516)
    nothing = probe(Net(6_000_000, 4_000_000), left=0.25, mendable=0.0)
    assert learned(PRIOR, [nothing]) == PRIOR
    law = replace(PRIOR, mixing=0.4)
    nets = [Net(m, m) for m in (1_000_000, 2_000_000, 4_000_000, 8_000_000)]
    sure, unsure = (
        learned(PRIOR, [probe(net, law.errors_left(net), gain_error=e) for net in nets]) for e in (1e-3, 0.1)
    )
    assert abs(sure.mixing - 0.4) < 0.05 < 0.15 < abs(unsure.mixing - 0.4)


def test_probes_teach_the_law_that_made_them():
    law = replace(PRIOR, offset=-0.4, mixing=0.3, spatial=0.6, depth=0.25)
    macs, ratios, layers = (1_000_000, 2_000_000, 4_000_000, 8_000_000), (1.0, 1.2, 1.6), (4, 8, 12)
    nets = [Net(int(m * r), m, n) for m in macs for r in ratios for n in layers]
    found = learned(PRIOR, [probe(net, law.errors_left(net)) for net in nets])
    assert found.least_mixing_macs == PRIOR.least_mixing_macs
    assert found.offset == pytest.approx(law.offset, abs=0.02)
    assert found.mixing == pytest.approx(law.mixing, abs=0.02)
    assert found.spatial == pytest.approx(law.spatial, abs=0.02)
    assert found.depth == pytest.approx(law.depth, abs=0.02)


def test_what_no_probe_tells_stays_as_it_was_known():
    assert learned(PRIOR, []) == PRIOR
    alike = [probe(Net(1_000_000, 1_000_000), left=0.7)] * 3  # no spread of MACs, none depthwise
    found = learned(PRIOR, alike)
    assert (found.mixing, found.spatial, found.depth) == (PRIOR.mixing, PRIOR.spatial, PRIOR.depth)
    assert found.offset == pytest.approx(log(0.7), abs=0.01)
    one = learned(PRIOR, [probe(Net(6_000_000, 4_000_000), left=0.3)])  # a single one is luck for the most part
    assert abs(one.mixing - PRIOR.mixing) < PRIOR_SPREAD[1]


def test_a_widened_net_has_no_wider_one_that_is_allowed():
    rng = np.random.default_rng(0)
    small = sample(SPACE, rng)
    large = widened(small, SPACE, rng, allowed)
    assert estimate(small).macs < estimate(large).macs <= MOST_MACS
    assert widened(large, SPACE, rng, allowed) == large
    assert widened(small, SPACE, rng, lambda arch: False) == small


def test_probes_fit_and_lie_far_apart():
    def picked(count, seed=0):
        return probe_nets(SPACE, count, compute=estimate, allowed=allowed, seed=seed)

    nets = picked(6)
    assert len(set(nets)) == 6
    assert all(allowed(arch) for arch in nets)
    assert picked(6) == nets
    assert picked(3) == nets[:3]
    assert picked(6, seed=1) != nets
    costs = [estimate(arch) for arch in nets]
    assert costs[0].mixing_macs == max(cost.mixing_macs for cost in costs) > 0.7 * MOST_MACS
    assert min(cost.mixing_macs for cost in costs) < 0.3 * MOST_MACS
    spatial = [cost.macs / cost.mixing_macs for cost in costs]
    assert max(spatial) > 1.5 * min(spatial)
    layers = [cost.mixing_layers for cost in costs]
    assert max(layers) > 1.5 * min(layers)
    assert picked(0) == ()
    assert probe_nets(SPACE, 6, compute=estimate, allowed=lambda arch: False, seed=0) == ()
