"""What is asked for: frozen specs, read from TOML, overridden by ``--set section.key=value``.

One `RunSpec` describes a run from data to bundle. Unknown keys are refused by name; every default is a figure that a
person would choose for a first try. `hybrid.configure` reads them.
"""

from dataclasses import dataclass, field, replace
from typing import Literal

DEFAULT_MAX_LOSS = 0.005
BlockKind = Literal["conv", "ds", "rds", "ib", "res"]


@dataclass(frozen=True, kw_only=True)
class BlockSpec:
    """`depth` layers of one kind; the first has the stride.

    ``conv`` convolution, ``ds`` depthwise-separable, ``rds`` the same with a shortcut beside each layer that keeps its
    input's shape, ``ib`` inverted bottleneck with `expansion`, ``res`` residual pair of convolutions. Each convolution
    is followed by batch normalisation and ReLU (``ib`` ends linearly).
    """

    kind: BlockKind
    width: int
    stride: int = 1
    kernel: int = 3
    depth: int = 1
    expansion: int = 1


@dataclass(frozen=True, kw_only=True)
class ArchSpec:
    """A classifier as plain data: blocks, global average pooling, one dense layer of logits.

    The penultimate features, which the router reads, are the pooled output of the last block, shape ``(n, width)``.
    """

    name: str
    input_shape: tuple[int, int, int]
    num_classes: int
    blocks: tuple[BlockSpec, ...]
    input_pool: int = 1
    """Edge of the squares of pixels whose mean the stem sees; 2 halves the resolution inside the net."""
    grey: bool = False
    """The stem sees the mean over the input's channels."""

    @property
    def feature_width(self) -> int:
        """Number of penultimate features."""
        return self.blocks[-1].width


@dataclass(frozen=True, kw_only=True)
class DataSpec:
    """Which data, and how the training part is divided."""

    name: str = "fashion_mnist"
    calibration_fraction: float = 0.1
    validation_fraction: float = 0.1
    image_size: int = 0
    """Edge length in pixels that an image folder is resized to; 0 keeps the images' own common size."""
    limit: int = 0
    """Use only this many training examples (stratified); 0 uses all. For rehearsals."""


@dataclass(frozen=True, kw_only=True)
class SearchSpec:
    """The search for the edge architecture, and for the cloud that goes with it."""

    trials: int = 500
    """Candidates scored."""
    supernet_epochs: int = 16
    """Training of the net that all candidates share their weights with."""
    supernet_rows: int = 0
    """Training examples that it sees; 0: all."""
    rows: int = 4000
    """Validation examples on which a pair is scored, at most."""
    max_latency_ms: float = 0.0
    """Mean latency at which a pair is scored: what the edge net takes of it is not there for queries; 0: see next."""
    min_coverage: float = 0.85
    """Coverage at which a pair is scored where no latency is asked for; about what a loss of half a point allows where
    the edge is a few points below its cloud."""
    macs_exponent: float = 0.2
    """Power of its MACs, depthwise ones left out, by which a pair's errors are taken to fall once its edge is trained
    on its own, for nets that compute more learn for longer. With `probes` it is what is thought before them; without,
    0 compares pairs as they are with shared weights."""
    probes: int = 5
    """Nets that are trained on their own before the search, to learn from them what else training does for others than
    `macs_exponent` says; 0: none."""
    probe_epochs: int = 8
    """Training of each, and of the finalists, which stands for the longer one of the edge net that is chosen."""
    finalists: int = 3
    """Nets that are trained on their own behind the search, the best by what it expects of each layout; the choice is
    among them. 0: what is expected decides."""
    noise_tolerance: float = 1.0
    """Standard errors of the best score within which the faster net wins; 0 takes the best score."""
    max_macs: int = 0
    """Ceiling on a candidate's MACs; 0 leaves only the device's own limits."""
    max_flash_bytes: int = 0
    """Ceiling on the model's flash; 0 leaves only the device's own limit."""
    max_peak_sram_bytes: int = 0
    """Ceiling on the model's peak SRAM, without `export.arena_margin`; 0 leaves only the device's own limit."""
    arch: str = ""
    """A TOML file with the edge ArchSpec: no search, this net."""
    kinds: tuple[BlockKind, ...] = ("conv",)
    """Kinds of blocks in the default space; of ``conv`` and ``res`` alone it is lean, and trains fastest on a CPU."""
    space: str = ""
    """A TOML file with a search space of your own; empty takes the default for the input."""


@dataclass(frozen=True, kw_only=True)
class CloudSpec:
    """Where the cloud's answers come from."""

    kind: Literal["train", "application", "table", "url"] = "train"
    width: int = 32
    depth: int = 1
    """Residual blocks per stage, for kind = "train"."""
    epochs: int = 5
    application: str = "MobileNetV2"
    """Name in keras.applications, for kind = "application"."""
    weights: str = ""
    """Local weights file for kind = "application"; empty starts from random weights."""
    application_pixels: int = 96
    """Edge length in pixels that the application net sees."""
    table: str = ""
    """.npz with one array per split (calibration, validation, test[, train]) of class scores ``(n, num_classes)``."""
    url: str = ""
    """Open Inference Protocol v2 model URL, such as http://host:8080/v2/models/cloud."""
    server: str = "cpu"
    """Profile that says how long one answer takes (see `hybrid devices`) or a TOML file; a URL is measured instead."""
    latency_ms: float = 0.0
    """How long one answer of this cloud takes, where you know it; 0: what `server` says."""


@dataclass(frozen=True, kw_only=True)
class TrainSpec:
    """The training of edge, router and cloud."""

    batch_size: int = 128
    edge_epochs: int = 8
    edge_learning_rate: float = 0.2
    cloud_learning_rate: float = 0.2
    weight_decay: float = 5e-4
    label_smoothing: float = 0.1
    """Of the cloud's labels; the edge learns from the cloud's own softness."""
    rounds: int = 1
    """Alternations of router, edge and cloud after the first training."""
    round_epochs: int = 1
    """Epochs of edge and of cloud in each alternation."""
    distillation: float = 0.5
    """Weight of the cloud's soft targets in the edge's loss, in [0, 1]."""
    temperature: float = 2.0
    flip: bool = True
    """Mirror images at random, where the data set says that a mirrored example keeps its class."""
    crop_pixels: int = 0
    cutout_pixels: int = 0
    mixup: float = 0.0
    """Strength (alpha) of mixup; 0 turns it off."""


RouterKind = Literal["auto", "learned", "gain", "max_softmax", "logit_margin", "logistic", "class_offsets"]


@dataclass(frozen=True, kw_only=True)
class LookSpec:
    """A second look on the device: what runs only where the answer so far is unsure, before the cloud is asked."""

    kind: Literal["none", "net", "exit"] = "none"
    """``net``: further nets of the edge's kind, their logits averaged; ``exit``: the edge net itself is cut,
    and a head on its near part answers what is easy."""
    nets: int = 1
    """Further nets, for kind = "net"."""
    width: float = 1.2
    """Widths of the further nets, relative to the edge's; 1.2 makes about 1.5 times the MACs."""
    share: float = 0.35
    """Share of the examples at one stage, the least sure, that the next stage looks at."""
    exit_after: int = 0
    """Blocks of the near part, for kind = "exit"; 0: all but the last."""


@dataclass(frozen=True, kw_only=True)
class RouterSpec:
    """The router, the teacher that it is distilled from, and where its labels come from."""

    kind: RouterKind = "auto"
    """``auto``: what routes best in cross-validation, the free ``max_softmax`` on a tie. ``learned``: a net for the
    proxy label; ``gain``: for the signed gain of a query; the others are rules of a few constants."""
    hidden: int = 24
    """Most hidden units; `max_parameters` may leave fewer."""
    epochs: int = 40
    max_parameters: int = 1000
    """Most weights and biases of one router on the device; it also stays within 2 % of its net's MACs."""
    softness: float = 1.0
    """Share of the cloud's own belief in the targets, in [0, 1]; the rest is the hard label."""
    teachers: int = 3
    """Nets whose mean the router is distilled from; 0 learns from the targets themselves."""
    teacher_epochs: int = 12
    students: int = 2
    """Starts of the router, of which the one nearest to its teacher is kept."""
    choice_folds: int = 3
    """Parts of the held-out examples, each of which judges the candidates fitted on the others."""
    supervision: Literal["held_out", "in_sample", "cross_fit"] = "in_sample"
    """``held_out``: the validation split alone; ``in_sample``: the training split as well, with what the cloud says of
    examples that it has seen; ``cross_fit``: with what clouds of other folds say, which have not."""
    rows: int = 0
    """Most training examples that the router learns from; 0: all."""
    folds: int = 2


@dataclass(frozen=True, kw_only=True)
class QuantizeSpec:
    """Full int8 quantisation of the edge net."""

    methods: tuple[Literal["ptq", "qat"], ...] = ("ptq", "qat")
    qat_epochs: int = 1
    qat_learning_rate: float = 5e-4
    representative_rows: int = 500


@dataclass(frozen=True, kw_only=True)
class SweepSpec:
    """Which operating point to choose; of several limits, all must hold, and 0 does not ask for one."""

    max_loss: float = 0.0
    """Accuracy that may be lost against the cloud; half a point where no limit at all is asked."""
    max_queries: float = 0.0
    """Share of the examples that the cloud is asked for, at most; the same as min_coverage, the other way round."""
    confidence: float = 0.9
    """With which max_loss, min_accuracy, max_queries, min_coverage hold (see `hybrid.guarantee`); 0 only measures."""
    max_latency_ms: float = 0.0
    min_accuracy: float = 0.0
    min_coverage: float = 0.0
    no_excess_loss: bool = False
    links: tuple[str, ...] = ("wifi", "lte", "lte-m", "nb-iot", "ble")
    """Links that the report compares; the run's own link is always among them."""
    clouds: tuple[str, ...] = ("cpu", "cpu-busy", "cpu-large", "gpu-large")
    """Cloud servers that the sweep compares; the run's own is always among them."""
    payload: Literal["packed", "cbor", "raw"] = "packed"
    """What a query carries: a CBOR frame with class, score and pixels, the pixels packed without loss (about half the
    bytes) or as they are; or the pixels alone."""

    @property
    def completed(self) -> "SweepSpec":
        """Itself; where it asks for no limit, with the loss of half a point as one."""
        limits = (self.max_loss, self.max_queries, self.max_latency_ms, self.min_accuracy, self.min_coverage)
        return self if any(limits) or self.no_excess_loss else replace(self, max_loss=DEFAULT_MAX_LOSS)


@dataclass(frozen=True, kw_only=True)
class ExportSpec:
    """What the bundle carries."""

    engines: Literal["auto", "tflm", "both"] = "auto"
    """What computes the nets on the device. ``auto``: the sources for TFLite Micro, and plain C compiled ahead of time
    where it has the nets' operators; ``both``: refuse a net that has others; ``tflm``: TFLite Micro alone."""
    arena_margin: float = 0.1
    """Share added to the measured arena of TFLite Micro; the search takes only nets that fit the device with it."""
    golden_examples: int = 16
    url: str = "http://127.0.0.1:8080/v2/models/cloud"
    """Where the cloud will answer; goes into endpoint.toml."""
    deadline_ms: float = 5000.0
    drift_window: int = 512
    """Examples after which the device says anew whether its scores are still those of the calibration split."""
    query_cost: float = 0.1
    """Errors that a query is worth to the online control on the device, up to 0.5."""


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """One run, from data to bundle."""

    preset: str = "quick"
    seed: int = 0
    device: str = "stm32f746"
    link: str = "lte"
    data: DataSpec = field(default_factory=DataSpec)
    search: SearchSpec = field(default_factory=SearchSpec)
    cloud: CloudSpec = field(default_factory=CloudSpec)
    clouds: tuple[CloudSpec, ...] = ()
    """Further clouds, of which and of `cloud` the search chooses one together with the edge: ``[[clouds]]`` in TOML.
    What one leaves out has its default, not what `cloud` says."""
    train: TrainSpec = field(default_factory=TrainSpec)
    look: LookSpec = field(default_factory=LookSpec)
    router: RouterSpec = field(default_factory=RouterSpec)
    quantize: QuantizeSpec = field(default_factory=QuantizeSpec)
    sweep: SweepSpec = field(default_factory=SweepSpec)
    export: ExportSpec = field(default_factory=ExportSpec)
