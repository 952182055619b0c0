"""The nets behind the router benchmark: a cloud per data set, small edges by seed, their int8 outputs on every split.

Each is made once and kept in a work folder, as an .npz of stored outputs beside the flatbuffer. All come from the
product's own training; nothing here knows of routers.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datasets import Dataset, Split, load
from hybrid import clouds, fitting, runtimes
from hybrid.artifacts import Floats
from hybrid.configure import run_spec
from hybrid.device_router import StoredOutputs
from hybrid.flatbuffers import Graph, named_outputs
from hybrid.predict import StageOutputs
from hybrid.progress import SILENT
from hybrid.qat import twin
from hybrid.quantize import convert
from hybrid.routing import Rows, Said
from hybrid.specs import ArchSpec, BlockSpec
from hybrid.supervision import softmax
from hybrid.train import Trainer

SPLITS = ("train", "validation", "calibration", "test")
REPRESENTATIVE_ROWS = 500


@dataclass(frozen=True, kw_only=True)
class Task:
    """A data set, how its cloud is trained, and how its edges are."""

    dataset: str
    cloud_epochs: int
    crop_pixels: int
    edge_epochs: int


TASKS = {
    "fm": Task(dataset="fashion_mnist", cloud_epochs=12, crop_pixels=0, edge_epochs=12),
    "cifar": Task(dataset="cifar10", cloud_epochs=20, crop_pixels=4, edge_epochs=18),
}
CLOUD_WIDTH = 32

EDGES = {
    "fm-s": ("fm", ((6, 2), (10, 2), (17, 2))),
    "fm-m": ("fm", ((12, 2), (20, 2), (34, 2))),
    "c16": ("cifar", ((16, 2), (24, 1), (32, 2), (18, 1))),
    "c24": ("cifar", ((20, 2), (30, 1), (38, 2), (22, 1))),
    "c60": ("cifar", ((16, 1), (32, 2), (48, 2), (84, 2))),
}
"""Task, and (width, stride) of each 3x3 convolution: about 2.4k, 9k, 16k, 24k and 57k parameters.

``c24`` is ``c16`` with about 1.5 times the MACs: what a second look at half of the examples costs in the mean.
"""


@dataclass(frozen=True, kw_only=True)
class Net:
    """An int8 net and what it says; `said` and `labels` by split, `cloud` probabilities ``(n, num_classes)``."""

    name: str
    flatbuffer: bytes
    logit_scale: float
    said: dict[str, StoredOutputs]
    labels: dict[str, NDArray[np.int32]]
    cloud: dict[str, Floats]

    def right(self, split: str) -> NDArray[np.bool_]:
        """Where the net is right."""
        return self.said[split].logits.argmax(axis=1) == self.labels[split]

    def cloud_right(self, split: str) -> NDArray[np.bool_]:
        """Where the cloud is right."""
        return self.cloud[split].argmax(axis=1) == self.labels[split]


def said(nets: list[Net], split: str, rows: NDArray[np.intp] | None = None) -> Said:
    """What several nets say of a split or of some `rows` of it, as `hybrid.routing` takes it."""
    labels = nets[0].labels[split]
    rows = np.arange(len(labels)) if rows is None else rows
    examples = Split(x=np.zeros((len(rows), 1, 1, 1), np.uint8), y=labels[rows])
    outputs = [StageOutputs(own=net.said[split].take(rows), trunk=None) for net in nets]
    return Said(rows=Rows(split=examples, cloud=nets[0].cloud[split][rows]), nets=outputs)


def arch_of(name: str, data: Dataset) -> ArchSpec:
    """The edge as plain data."""
    blocks = tuple(BlockSpec(kind="conv", width=width, stride=stride) for width, stride in EDGES[name][1])
    return ArchSpec(name=name, input_shape=data.input_shape, num_classes=data.num_classes, blocks=blocks)


def trainer(task: Task, data: Dataset, seed: int) -> Trainer:
    """The product's trainer for an edge of this task."""
    asked = (f"data.name={task.dataset}", f"train.edge_epochs={task.edge_epochs}", "train.rounds=0", f"seed={seed}")
    return Trainer(data=data, spec=run_spec(assignments=asked), narrator=SILENT)


def cloud_logits(task: Task, work: Path) -> dict[str, Floats]:
    """The cloud's logits on every split, as it serves; trained where the work folder has none."""
    path = work / f"{task.dataset}-cloud.npz"
    if not path.is_file():
        data = load(task.dataset)
        asked = (
            f"data.name={task.dataset}",
            f"cloud.width={CLOUD_WIDTH}",
            f"cloud.epochs={task.cloud_epochs}",
            f"train.crop_pixels={task.crop_pixels}",
            "train.rounds=0",
        )
        maker = Trainer(data=data, spec=run_spec(assignments=asked), narrator=SILENT)
        net = maker.new_cloud()
        maker.fit_cloud(net, data.train)
        serving = clouds.answering_net(net, data)
        made = {name: fitting.predict(serving, data.splits[name].x, label="", narrator=SILENT) for name in SPLITS}
        np.savez(path, **{name: outputs.logits for name, outputs in made.items()})
    with np.load(path) as stored:
        return {name: stored[name] for name in SPLITS}


def edge_net(name: str, seed: int, *, distilled: bool, work: Path) -> Net:
    """An edge of `EDGES` in int8; trained where the work folder has none."""
    task = TASKS[EDGES[name][0]]
    stem = work / f"{name}-{'kd' if distilled else 'ce'}-{seed}"
    if not stem.with_suffix(".npz").is_file():
        _make(name, task, seed, cloud_logits(task, work), distilled, stem)
    with np.load(stem.with_suffix(".npz")) as stored:
        return Net(
            name=stem.name,
            flatbuffer=stem.with_suffix(".tflite").read_bytes(),
            logit_scale=float(stored["scale"]),
            said={
                split: StoredOutputs(logits=stored[f"logits_{split}"], features=stored[f"features_{split}"])
                for split in SPLITS
            },
            labels={split: stored[f"y_{split}"] for split in SPLITS},
            cloud={split: stored[f"cloud_{split}"] for split in SPLITS},
        )


def _make(name: str, task: Task, seed: int, cloud: dict[str, Floats], distilled: bool, stem: Path) -> None:
    data = load(task.dataset)
    arch, maker = arch_of(name, data), trainer(task, data, seed)
    net = maker.new_edge(arch)
    maker.fit_edge(net, data.train, softmax(cloud["train"]) if distilled else None)
    rows = np.random.default_rng(0).permutation(len(data.train))[:REPRESENTATIVE_ROWS]
    flatbuffer = named_outputs(convert(twin(arch, net), data.train.x[rows]))
    stem.with_suffix(".tflite").write_bytes(flatbuffer)
    np.savez(stem.with_suffix(".npz"), **outputs_of(flatbuffer, data, cloud))


def outputs_of(flatbuffer: bytes, data: Dataset, cloud: dict[str, Floats]) -> dict[str, Any]:
    """Everything that `Net` holds beside the flatbuffer, as arrays by name."""
    arrays: dict[str, Any] = {"scale": Graph(flatbuffer).edge_outputs().logits_affine.scale}
    for name, probabilities in cloud.items():
        split = data.splits[name]
        logits, features = runtimes.run(flatbuffer, split.x, engine="host", narrator=SILENT)
        arrays |= {f"logits_{name}": logits, f"features_{name}": features, f"y_{name}": split.y}
        arrays[f"cloud_{name}"] = softmax(probabilities)
    return arrays
