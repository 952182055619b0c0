"""What the tests of the learner share: specs, a narrator that listens, an int8 model's inner tensors."""

from contextlib import contextmanager
from dataclasses import replace

import numpy as np

from datasets import Dataset, Split
from hybrid.artifacts import NetOutputs
from hybrid.flatbuffers import Graph, dequantise
from hybrid.nets import build_net
from hybrid.predict import stage_outputs
from hybrid.progress import Silent
from hybrid.quantize import convert
from hybrid.specs import ArchSpec, BlockSpec, CloudSpec, QuantizeSpec, RouterSpec, RunSpec, TrainSpec

EDGE = ArchSpec(
    name="edge",
    input_shape=(28, 28, 1),
    num_classes=10,
    blocks=(
        BlockSpec(kind="conv", width=8, kernel=5, stride=2),
        BlockSpec(kind="ds", width=16, stride=2),
    ),
)
SPEC = RunSpec(
    seed=3,
    cloud=CloudSpec(width=8, epochs=2),
    train=TrainSpec(batch_size=64, edge_epochs=8, edge_learning_rate=0.5, weight_decay=0.0, flip=False),
    router=RouterSpec(hidden=8, epochs=15),
    quantize=QuantizeSpec(representative_rows=100),
)


def real(flatbuffer, x):
    """What an int8 net says of stored images by the fast runtime, as float `NetOutputs`."""
    found, said = Graph(flatbuffer).edge_outputs(), stage_outputs(flatbuffer, x).own
    return NetOutputs(
        logits=dequantise(said.logits, found.logits_affine), features=dequantise(said.features, found.features_affine)
    )


def filled(net, rng):
    """Weights as after training: biases that are not all the same, for the converter would store them once."""
    net.set_weights([np.abs(rng.normal(1, 0.2, w.shape)) if w.ndim == 1 else w for w in net.get_weights()])
    return net


def int8_net(arch, rng, examples=4):
    """A flatbuffer of `arch` with weights as after training, calibrated on so many random images."""
    import tf_keras

    tf_keras.backend.clear_session()  # as `hybrid.qat.twins` does: the order of a shortcut follows the layers' names
    net = filled(build_net(arch, tf_keras), rng)
    return convert(net, rng.integers(0, 256, (examples, *arch.input_shape), dtype=np.uint8))


def spec(**sections):
    """`SPEC` with changed fields by section, such as ``train={"rounds": 2}``."""
    return replace(SPEC, **{name: replace(getattr(SPEC, name), **changes) for name, changes in sections.items()})


class Listener:
    """A narrator that keeps what it hears: sentences, and (label, total, steps done) of each piece of work."""

    def __init__(self):
        self.said, self.tracked = [], []

    def say(self, text):
        self.said.append(text)

    @contextmanager
    def track(self, label, total):
        done = []
        yield lambda steps, note: done.append(steps)
        self.tracked.append((label, total, sum(done)))


class Stop(Silent):
    """A narrator that is interrupted after so many steps."""

    def __init__(self, after):
        self.left = after

    @contextmanager
    def track(self, label, total):
        yield self.advance

    def advance(self, steps, note):
        self.left -= steps
        if self.left < 0:
            raise KeyboardInterrupt


def head(split, rows):
    return Split(x=split.x[:rows], y=split.y[:rows])


def made_up(x, y, *, num_classes, mirror=False):
    """A data set whose four splits are all of `x` and `y`."""
    part = Split(x=x, y=y.astype(np.int32))
    return Dataset(
        name="made_up",
        train=part,
        calibration=part,
        validation=part,
        test=part,
        class_names=tuple(f"class {index}" for index in range(num_classes)),
        licence="none",
        source="a test",
        digest="0" * 64,
        value_range=(0.0, 255.0),
        mirror=mirror,
    )


def tensors(flatbuffer):
    """The tensors of the only subgraph by name, as schema objects; those without a name under their numbers."""
    found = Graph(flatbuffer)._subgraph.tensors
    return {tensor.name.decode() if tensor.name else str(n): tensor for n, tensor in enumerate(found)}
