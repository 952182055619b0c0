"""Which space suits a device: of toy spaces with toy prices, worked out by hand."""

from dataclasses import replace

import numpy as np
import pytest

from hybrid.configure import run_spec
from hybrid.pipeline import Run
from hybrid.pipeline.searching import pricing_of
from nas.candidate import Candidate
from nas.space import Choices, Space, edge_space, sample
from nas.subspace import DRAWS, LEAST_SHARE, WIDTHS, fitted

NARROW, MEDIUM, WIDE = (
    Space(
        input_shape=(8, 8, 1),
        num_classes=2,
        stem=Choices(width=(4,)),
        stages=(Choices(width=widths),),
        num_stages=(1,),
    )
    for widths in ((8, 12), (16, 20), (24, 28))
)
SPACES = (NARROW, MEDIUM, WIDE)


def prices(most):
    """A net's MACs are the width of its stage; it fits up to `most`."""

    def price(arch):
        width = arch.blocks[1].width
        status = "fits" if width <= most else "skipped"
        return Candidate(arch=arch, macs=width, flash_bytes=1, peak_sram_bytes=1, latency_ms=1.0, status=status)

    return price


@pytest.mark.parametrize(
    ("most", "best"),
    [
        (28, WIDE),  # all fit: 26 MACs in the mean, against 18 and 10
        (24, WIDE),  # half of the wide ones do, of 24 MACs each
        (23, MEDIUM),  # none of the wide ones do: 18 against 10
        (16, MEDIUM),  # half of the medium ones, of 16 MACs each, against 10
        (12, NARROW),
        (8, NARROW),  # no other fits at all
    ],
)
def test_the_space_whose_feasible_nets_compute_most(most, best):
    for order in (SPACES, SPACES[::-1]):
        assert fitted(order, prices(most), seed=0) is best


def test_a_space_of_which_too_few_nets_fit_gives_way():
    # One width in ten of the rich space fits, with 24 MACs; the plain one has 8 or 12, all of which fit. Were the rich
    # one taken, nine draws of ten would be in vain.
    rich = replace(NARROW, stages=(Choices(width=tuple(range(24, 64, 4))),))
    assert LEAST_SHARE > 0.1
    assert fitted((NARROW, rich), prices(24), seed=0) is NARROW
    # Three widths in ten do: enough.
    assert fitted((NARROW, rich), prices(32), seed=0) is rich


def test_where_of_none_enough_fit_it_is_the_one_of_which_most_do():
    # 24 of 24 to 60, one in ten; 4 of 4 to 60, one in fifteen: the first, though so few fit.
    tenth = replace(NARROW, stages=(Choices(width=(4, *range(28, 64, 4))),))
    fifteenth = replace(NARROW, stages=(Choices(width=(8, *range(28, 84, 4))),))
    assert fitted((fifteenth, tenth), prices(12), seed=0) is tenth


def test_where_nothing_fits_there_is_a_space_all_the_same():
    assert fitted(SPACES, prices(0), seed=0) in SPACES


def test_real_nets_at_real_prices(tmp_path):
    np.savez(tmp_path / "tiny.npz", x=np.zeros((100, 28, 28, 1), np.uint8), y=np.arange(100) % 2)

    def space(*ceilings):
        run = Run(tmp_path / "run", run_spec(assignments=[f'data.name="{tmp_path / "tiny.npz"}"', *ceilings]))
        drawn = [sample(run.space, np.random.default_rng(seed)) for seed in range(DRAWS)]
        share = sum(pricing_of(run).price(arch).status == "fits" for arch in drawn) / DRAWS
        return run.space, share

    plain = {width: edge_space((28, 28, 1), 2, kinds=("res",), width=width) for width in WIDTHS}
    unlimited, tight, tighter = (
        space("search.max_macs=0", f"search.max_flash_bytes={limit}") for limit in (0, 60_000, 20_000)
    )
    assert unlimited == (plain[max(WIDTHS)], 1.0)  # the device's megabyte of flash has room for all
    assert tight[0] not in (plain[min(WIDTHS)], plain[max(WIDTHS)])
    assert tight[1] > LEAST_SHARE / 2
    assert tighter[0] == plain[min(WIDTHS)]
