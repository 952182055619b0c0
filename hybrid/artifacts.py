"""What is made: values that flow from stage to stage. No field means "not yet"; each stage has its own type."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]
Bools = NDArray[np.bool_]
ArenaSource = Literal["measured", "estimated"]


@dataclass(frozen=True, kw_only=True)
class NetOutputs:
    """What a net says about `n` examples: `logits` ``(n, num_classes)`` and penultimate `features` ``(n, width)``."""

    logits: Floats
    features: Floats


@dataclass(frozen=True, kw_only=True)
class Affine:
    """TFLite's affine quantisation: ``real = scale * (stored - zero_point)``."""

    scale: float
    zero_point: int


@dataclass(frozen=True, kw_only=True)
class ArenaNeeds:
    """What a net, or all nets of a device together, need of an arena of TFLite Micro."""

    head_bytes: int
    """Activations and scratch, free again once the net has run."""
    tail_bytes: int
    """What stays."""
    least_bytes: int
    """The least arena in which it works alone; a small net needs more while it is prepared than head and tail."""


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """What a device program takes on the device; all its nets share one arena."""

    macs: int
    """Of all nets together: an example on which every stage runs."""
    router_macs: int
    """Of all routers together."""
    flash_bytes: int
    """The flatbuffers and the routers' tables, which lie in flash."""
    measured_arena_bytes: int
    """What TFLite Micro's recording interpreter allocates for them, without margin."""
    least_arena_bytes: int
    """An arena in which TFLite Micro prepares and runs them; small nets need more than they record."""
    arena_source: ArenaSource = "measured"
    """``estimated`` where TFLite Micro was missing: then both figures are the estimate of `hybrid.cost`."""


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """Edge, router and cloud over one split of `n` examples."""

    labels: Ints
    edge_logits: Floats
    """Dequantised logits on the device, mixed over the stages that ran, ``(n, num_classes)``."""
    router_score: Ints
    """The device's int8 score, ``(n,)`` in [-128, 127]; higher: the edge can answer."""
    cloud_scores: Floats
    """The cloud's class scores (logits or probabilities), ``(n, num_classes)``."""
    stage: Ints
    """The last stage that ran on the device, ``(n,)`` from 0."""

    @property
    def edge_class(self) -> Ints:
        """The edge's answer, ``(n,)``; of equal logits the lowest class, as the firmware does."""
        return self.edge_logits.argmax(axis=1).astype(np.int32)

    @property
    def cloud_class(self) -> Ints:
        """The cloud's answer, ``(n,)``."""
        return self.cloud_scores.argmax(axis=1).astype(np.int32)

    @property
    def edge_right(self) -> Bools:
        """Where the edge is right, ``(n,)``."""
        return self.edge_class == self.labels

    @property
    def cloud_right(self) -> Bools:
        """Where the cloud is right, ``(n,)``."""
        return self.cloud_class == self.labels


@dataclass(frozen=True, kw_only=True)
class OperatingPoint:
    """A threshold and what it gives; the edge answers where ``router_score >= threshold``."""

    name: str
    threshold: int
    """In the score's int8 units, [-128, 128]; 128 keeps nothing, -128 keeps everything."""
    coverage: float
    accuracy: float
    mean_latency_ms: float
    p50_latency_ms: float
    p95_latency_ms: float
    mean_energy_mj: float
    link: str
    cloud: str


@dataclass(frozen=True, kw_only=True)
class Device:
    """A microcontroller board; every figure's source is in its TOML file."""

    name: str
    title: str
    core: str
    clock_mhz: float
    flash_bytes: int
    sram_bytes: int
    reserved_flash_bytes: int
    """Taken by runtime and application before a model."""
    reserved_sram_bytes: int
    power_mw: float
    """Mean board power during an inference; it hardly depends on the model."""
    sleep_power_mw: float
    cycles_per_mac: Mapping[str, float]
    """By kind of layer: conv, pointwise, depthwise, dense."""
    overhead_ms: float
    """Fixed time of one inference beside the MACs."""
    latency_band: float
    """Relative half-width of the latency estimate."""
    source: str
    cycles_per_output: float = 0.0
    """For each number that a layer with weights writes: its int8 scale; 0: in `cycles_per_mac`."""
    cycles_per_element: float = 0.0
    """For each number that additions and pooling read or write."""
    cycles_per_operator: float = 0.0
    ragged_penalty: float = 1.0
    """Factor on the MACs of layers whose channels are no multiple of four."""


@dataclass(frozen=True, kw_only=True)
class CloudServer:
    """Where the cloud net runs, as far as latency knows."""

    name: str
    title: str
    latency_ms: float
    """From the query's last byte to the answer's first."""
    source: str


@dataclass(frozen=True, kw_only=True)
class Link:
    """A radio link from device to cloud; a query costs fixed wake and tail beside its bytes."""

    name: str
    title: str
    wake_ms: float
    """From sleep until the first byte can be sent."""
    wake_mj: float
    tail_mj: float
    """Spent after the answer (inactivity timers); it adds no latency."""
    rtt_mean_ms: float
    rtt_sd_ms: float
    rtt_min_ms: float
    uplink_kbps: float
    mj_per_kilobyte: float
    overhead_bytes: int
    """Headers and framing of one query."""
    loss: float
    """Probability that a query must be sent again."""
    source: str
