from dataclasses import replace

import numpy as np
import pytest

from hybrid import latency, profiles
from hybrid.artifacts import Device, Link
from hybrid.work import MAC_KINDS, Work

DEVICE = Device(
    name="d", title="", core="", clock_mhz=100, flash_bytes=1, sram_bytes=1, reserved_flash_bytes=0,
    reserved_sram_bytes=0, power_mw=50, sleep_power_mw=2, overhead_ms=0.5, latency_band=0.1, source="",
    cycles_per_mac={"conv": 2.0, "pointwise": 1.0, "depthwise": 4.0, "dense": 3.0},
)  # fmt: skip
LINK = Link(
    name="l", title="", wake_ms=100, wake_mj=10, tail_mj=20, rtt_mean_ms=50, rtt_sd_ms=0, rtt_min_ms=1, uplink_kbps=80,
    mj_per_kilobyte=4, overhead_bytes=200, loss=0, source="",
)  # fmt: skip


def rng():
    return np.random.default_rng(0)


def test_packing_by_hand():
    assert latency.packing_ms(784, DEVICE) == pytest.approx(1.568)  # 200 cycles each, at 100 a microsecond


def test_edge_latency_by_hand():
    work = Work(
        macs_by_kind={"conv": 1_000_000, "pointwise": 500_000, "depthwise": 100_000, "dense": 20_000},
        ragged_macs_by_kind={"conv": 100_000, "pointwise": 0, "depthwise": 0, "dense": 0},
        outputs=20_000,
        elements=1000,
        operators=12,
    )
    # 2.0 M + 0.5 M + 0.4 M + 0.06 M = 2.96 M cycles at 100 cycles a microsecond: 29.6 ms, and 0.5 ms fixed.
    assert latency.edge_latency_ms(work, DEVICE) == pytest.approx(30.1)
    # 20,000 * 10 + 1000 * 30 + 12 * 500 = 236,000 cycles: 2.36 ms; half of 100,000 * 2 cycles more: 1 ms.
    full = replace(DEVICE, cycles_per_output=10, cycles_per_element=30, cycles_per_operator=500, ragged_penalty=1.5)
    assert latency.edge_latency_ms(work, full) == pytest.approx(33.46)


def test_query_latency_by_hand():
    # wake 100, (800 + 200) bytes * 8 bits / 80 kbit/s = 100, round trip 50, cloud 7.
    assert latency.query_latency_ms(3, 800, LINK, 7, rng()) == pytest.approx([257, 257, 257])


def test_mean_query_latency_by_hand():
    assert latency.mean_query_ms(800, LINK, 7) == pytest.approx(257)  # nothing is drawn: as above
    # Of the attempts at a loss of a half, the mean is 1 + 1/2 + ... + 1/128 = 2 - 1/128.
    lossy = replace(LINK, loss=0.5)
    assert latency.mean_query_ms(800, lossy, 7) == pytest.approx(107 + (2 - 1 / 128) * 150)


@pytest.mark.parametrize("link", profiles.links().values(), ids=lambda link: link.name)
def test_mean_query_latency_is_the_mean_of_what_is_drawn(link):
    drawn = latency.query_latency_ms(100_000, 800, link, 7, rng())
    error = drawn.std() / 100_000**0.5
    assert abs(latency.mean_query_ms(800, link, 7) - drawn.mean()) < 4 * error + 1e-9


def test_payload_may_differ_by_example():
    assert latency.query_latency_ms(2, [0, 800], LINK, 0, rng()) == pytest.approx([170, 250])


def test_a_kept_example_pays_only_the_edge():
    kept = np.array([True, False, True, False])
    query_ms = np.array([100.0, 200.0, 300.0, 400.0])
    assert latency.latency_ms(kept, 10, query_ms).tolist() == [10, 210, 10, 410]


def test_the_edge_may_take_longer_for_some():
    """Where a second net ran, its time and energy are paid for too."""
    kept, edge_ms = np.array([True, True, False]), np.array([10.0, 30.0, 30.0])
    assert latency.latency_ms(kept, edge_ms, np.full(3, 200.0)).tolist() == [10, 30, 230]
    # 50 mW for 10 and 30 ms: 0.5 and 1.5 mJ.
    assert latency.energy_mj(kept, edge_ms, np.full(3, 8.0), DEVICE).tolist() == [0.5, 1.5, 9.5]


def test_energy_by_hand():
    # wake 10 + (800 + 200) bytes * 4 mJ/kB = 4 + tail 20 + waiting 250 ms * 2 mW = 0.5 mJ.
    query = latency.query_energy_mj(np.array([250.0]), 800, DEVICE, LINK)
    assert query == pytest.approx([34.5])
    # The edge: 50 mW for 30 ms = 1.5 mJ.
    assert latency.energy_mj(np.array([True, False]), 30, query, DEVICE) == pytest.approx([1.5, 36])


def test_lost_queries_are_sent_again():
    lossy = replace(LINK, loss=0.5)
    ms = latency.query_latency_ms(20_000, 800, lossy, 7, rng())
    extra = (ms - 107) / 150  # each attempt is 100 ms uplink and 50 ms round trip
    assert set(np.round(extra, 6)) == set(range(1, latency.MAX_ATTEMPTS + 1))
    # Bounded geometric: 1 + 1/2 + ... + 1/128 = 2 - 1/128 = 1.992; three standard errors of the mean are 0.03.
    assert extra.mean() == pytest.approx(2 - 1 / 128, abs=0.03)
    energy = latency.query_energy_mj(np.zeros(1), 800, DEVICE, lossy)
    assert energy == pytest.approx([10 + 4 * (2 - 1 / 128) + 20])


def test_round_trips_follow_the_truncated_normal():
    wide = replace(LINK, rtt_sd_ms=50, rtt_min_ms=50, wake_ms=0, overhead_bytes=0)
    ms = latency.query_latency_ms(40_000, 0, wide, 0, rng())
    assert ms.min() >= 50
    # Cut at its mean, a normal law is a half-normal: mean = 50 + 50 * sqrt(2 / pi) = 89.9.
    assert ms.mean() == pytest.approx(50 + 50 * np.sqrt(2 / np.pi), abs=0.6)


def test_a_minimum_out_of_reach_is_still_kept():
    stuck = replace(LINK, rtt_mean_ms=10, rtt_sd_ms=1, rtt_min_ms=500)
    assert latency.query_latency_ms(2, 800, stuck, 0, rng()) == pytest.approx([700, 700])


def test_same_seed_same_network():
    lte = profiles.link("lte")
    a, b = (latency.query_latency_ms(50, 784, lte, 5, rng()) for _ in range(2))
    assert a.tolist() == b.tolist()


def test_the_l4r5_reproduces_its_measured_benchmarks():
    """MLPerf Tiny v1.0, OctoML with CMSIS-NN on NUCLEO_L4R5ZI: measured milliseconds."""
    macs = {
        389.6: ((12_238_848, 262_144, 0, 640), 442_368, 86_026, 32_778, 15),
        99.8: ((320_000, 2_048_000, 288_000, 768), 320_000, 72_012, 8_012, 12),
        301.2: ((497_664, 6_193_152, 798_336, 512), 497_664, 231_554, 2_306, 30),
        8.6: ((0, 0, 0, 264_192), 0, 1_672, 0, 10),
    }
    for ms, (by_kind, ragged, outputs, elements, operators) in macs.items():
        work = Work(
            macs_by_kind=dict(zip(MAC_KINDS, by_kind, strict=True)),
            ragged_macs_by_kind=dict.fromkeys(MAC_KINDS, 0) | {"conv": ragged},
            outputs=outputs,
            elements=elements,
            operators=operators,
        )
        assert latency.edge_latency_ms(work, profiles.device("stm32l4r5")) == pytest.approx(ms, rel=0.08)


def test_the_fixed_part_of_a_query_dominates_its_bytes():
    for name in ("wifi", "lte", "lte-m", "nb-iot"):
        link = profiles.link(name)
        sent = latency.query_energy_mj(0.0, 784, DEVICE, link) - link.wake_mj - link.tail_mj
        assert sent < (link.wake_mj + link.tail_mj) / 1.5, name
