"""How long, and how much energy? Decisions in, one figure per example out.

The edge always runs first; where it does not keep an example, a query follows. A query costs fixed wake and tail beside
its bytes, and for a microcontroller's small payloads the fixed part is most of it.
"""

from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hybrid.artifacts import Bools, Device, Link
from hybrid.work import Work

Array = NDArray[np.float64]
MAX_ATTEMPTS = 8
"""A query lost this often is taken to arrive with its last attempt."""
PACKING_CYCLES_PER_SAMPLE = 200
"""Of `firmware_export.packing` on the device: 140 to 160 instructions, counted on an emulated Cortex-M4, -O2."""


def edge_latency_ms(work: Work, device: Device) -> float:
    """Time of one inference: cycles of MACs, outputs and operators over the clock, and the fixed overhead.

    The estimate is good to ``device.latency_band`` either way.
    """
    extra = device.ragged_penalty - 1
    cycles = (
        work.outputs * device.cycles_per_output
        + work.elements * device.cycles_per_element
        + work.operators * device.cycles_per_operator
    )
    for kind, macs in work.macs_by_kind.items():
        if macs:
            cycles += (macs + extra * work.ragged_macs_by_kind[kind]) * device.cycles_per_mac[kind]
    return cycles / (device.clock_mhz * 1e3) + device.overhead_ms


def query_latency_ms(n: int, payload_bytes: ArrayLike, link: Link, cloud_ms: float, rng: np.random.Generator) -> Array:
    """Draw the time from decision to answer of `n` queries, ``(n,)``; `payload_bytes` is one figure or ``(n,)``.

    Wake-up once; uplink and round trip for each attempt (a lost query is sent again, `MAX_ATTEMPTS` at most); cloud.
    """
    attempts = _attempts(n, link, rng)
    return link.wake_ms + attempts * uplink_ms(payload_bytes, link) + _rtts_ms(attempts, link, rng) + cloud_ms


def mean_query_ms(payload_bytes: float, link: Link, cloud_ms: float) -> float:
    """Mean of what `query_latency_ms` draws."""
    each = float(uplink_ms(payload_bytes, link)) + _mean_rtt_ms(link)
    return link.wake_ms + _mean_attempts(link) * each + cloud_ms


def packing_ms(samples: int, device: Device) -> float:
    """Time of the device to pack an image or window of so many samples."""
    return samples * PACKING_CYCLES_PER_SAMPLE / (device.clock_mhz * 1e3)


def uplink_ms(payload_bytes: ArrayLike, link: Link) -> Array:
    """Time to send one payload with its headers: bits over kbit/s are milliseconds."""
    return (np.asarray(payload_bytes, dtype=np.float64) + link.overhead_bytes) * 8 / link.uplink_kbps


def latency_ms(kept: Bools, edge_ms: ArrayLike, query_ms: ArrayLike) -> Array:
    """Time from input to answer, ``(n,)``; `query_ms` is ``(n,)`` and counts where the edge does not keep.

    `edge_ms`, of all stages that ran on the device, is one figure or ``(n,)``.
    """
    return np.asarray(edge_ms) + np.where(kept, 0.0, query_ms)


def query_energy_mj(query_ms: ArrayLike, payload_bytes: ArrayLike, device: Device, link: Link) -> Array:
    """Energy of queries, ``(n,)``: the radio's wake, bytes and tail, and the sleeping device's while it waits.

    Bytes are counted for the mean number of attempts.
    """
    sent = (np.asarray(payload_bytes, dtype=np.float64) + link.overhead_bytes) / 1000 * link.mj_per_kilobyte
    waiting = np.asarray(query_ms) * device.sleep_power_mw / 1000  # mW * ms = uJ
    return link.wake_mj + sent * _mean_attempts(link) + link.tail_mj + waiting


def energy_mj(kept: Bools, edge_ms: ArrayLike, query_mj: ArrayLike, device: Device) -> Array:
    """Energy from input to answer, ``(n,)``; `edge_ms` as in `latency_ms`, `query_mj` as from `query_energy_mj`."""
    return np.asarray(edge_ms) * device.power_mw / 1000 + np.where(kept, 0.0, query_mj)


def _attempts(n: int, link: Link, rng: np.random.Generator) -> NDArray[np.int64]:
    return np.minimum(rng.geometric(1 - link.loss, n), MAX_ATTEMPTS)


def _mean_attempts(link: Link) -> float:
    """Mean of the bounded geometric law: ``sum over k < MAX_ATTEMPTS of loss**k``."""
    return sum(link.loss**k for k in range(MAX_ATTEMPTS))


def _rtts_ms(attempts: NDArray[np.int64], link: Link, rng: np.random.Generator) -> Array:
    """Sum of one round trip for each attempt, ``(n,)``."""
    drawn = _truncated_normal(len(attempts) * MAX_ATTEMPTS, link, rng).reshape(len(attempts), MAX_ATTEMPTS)
    return np.where(np.arange(MAX_ATTEMPTS) < attempts[:, None], drawn, 0.0).sum(axis=1)


def _mean_rtt_ms(link: Link) -> float:
    """Mean of the normal law above `rtt_min_ms`: ``mean + sd * density(a) / (1 - cumulated(a))``, a its lower end."""
    if link.rtt_sd_ms <= 0:
        return max(link.rtt_mean_ms, link.rtt_min_ms)
    law, end = NormalDist(), (link.rtt_min_ms - link.rtt_mean_ms) / link.rtt_sd_ms
    return link.rtt_mean_ms + link.rtt_sd_ms * law.pdf(end) / (1 - law.cdf(end))


def _truncated_normal(n: int, link: Link, rng: np.random.Generator) -> Array:
    """Draw round trips from the normal law, again where below `rtt_min_ms`."""
    drawn = rng.normal(link.rtt_mean_ms, link.rtt_sd_ms, n)
    for _ in range(20):
        low = drawn < link.rtt_min_ms
        if not low.any():
            break
        drawn[low] = rng.normal(link.rtt_mean_ms, link.rtt_sd_ms, int(low.sum()))
    return np.maximum(drawn, link.rtt_min_ms)
