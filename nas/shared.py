"""The shared weights of a supernet, and the layers namespace through which a net of the space uses its part of them.

`hybrid.nets` writes nets over a layers namespace. `SharedLayers` is one more of these: its layers compute at once, on
tensors, with the first channels, the middle of the kernel and the first units of the largest weights of that place
(Once-for-all, Cai et al. 2020), so that a candidate is exactly the net that would be trained alone.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hybrid.specs import BlockKind
from nas.space import Choices, Space

Mode = Literal["train", "estimate", "infer"]
"""``train`` normalises by the batch; ``estimate`` too, and remembers its statistics; ``infer`` uses those."""
Shape = tuple[int, ...]
EPSILON = 1e-3
GAMMA, BETA = "gamma", "beta"
HEAD = "head"
BESIDE_IDENTITY = 0.3
"""Of He et al.'s standard deviation, what first kernels differ by from the identity."""


def weight_shapes(space: Space) -> dict[str, Shape]:
    """The largest weights at each place, by name: ``2/ib/0/conv1`` is the projection of stage 2's first layer.

    A place is a position, a kind and a layer; all else is shared. Weights of their own for each total stride learned
    less in the same time. Kernels are ``(height, width, inputs, outputs)``, of depthwise ones ``(height, width,
    channels, 1)``.
    """
    shapes: dict[str, Shape] = {}
    channels = space.input_shape[2]
    for position, choices in enumerate(space.positions[: max(space.num_stages) + 1]):
        width = max(choices.width)
        for kind in choices.kind:
            inputs = channels
            for depth in range(max(choices.depth)):
                kernels = _kernels(kind, inputs, choices, narrow=space.input_shape[1] == 1)
                shapes |= {f"{place(position, kind, depth)}/{name}": shape for name, shape in kernels.items()}
                inputs = width
        channels = width
    for count in space.num_stages:
        units = (max(space.positions[count].width), space.num_classes)
        shapes |= {f"{place(count, HEAD)}/kernel": units, f"{place(count, HEAD)}/bias": units[1:]}
    return shapes | dict(_normalisations(shapes))


def place(position: int, kind: str, depth: int = 0) -> str:
    """Name of a layer's place."""
    return f"{position}/{kind}/{depth}"


def _kernels(kind: BlockKind, inputs: int, choices: Choices, *, narrow: bool) -> dict[str, Shape]:
    side, outputs, inner = max(choices.kernel), max(choices.width), max(choices.expansion) * inputs
    size = (side, 1) if narrow else (side, side)
    separable: dict[str, Shape] = {"depthwise0": (*size, inputs, 1), "conv0": (1, 1, inputs, outputs)}
    kernels: dict[BlockKind, dict[str, Shape]] = {
        "conv": {"conv0": (*size, inputs, outputs)},
        "ds": separable,
        "rds": separable,
        "ib": {
            "conv0": (1, 1, inputs, inner),
            "depthwise0": (*size, inner, 1),
            "conv1": (1, 1, inner, outputs),
        },
        "res": {
            "conv0": (*size, inputs, outputs),
            "conv1": (*size, outputs, outputs),
            "conv2": (1, 1, inputs, outputs),
        },
    }
    return kernels[kind]


def _normalisations(shapes: dict[str, Shape]) -> Iterator[tuple[str, Shape]]:
    for name, shape in shapes.items():
        if len(shape) == 4:
            channels = shape[2] if "depthwise" in name else shape[3]
            yield f"{name}/{GAMMA}", (channels,)
            yield f"{name}/{BETA}", (channels,)


def first_weights(shapes: dict[str, Shape], seed: int) -> dict[str, Any]:
    """Variables of these shapes: kernels by He et al. 2015, gammas 1, the rest 0.

    Behind the stem, kernels start near the identity, as those of deep nets without shortcuts do (Zagoruyko & Komodakis
    2017): channels then mean much the same before and behind a layer, and nets with and without it agree in what the
    next one reads. Otherwise nets of elastic depth unlearn each other's weights. After 250 steps on Fashion-MNIST the
    accuracy with shared weights was, in a space of one kind, 71 % in place of 40 for ``ds``, 76 of 72 for ``ib``, 82 of
    76 for ``res``; where kinds share stem and head, 54 of 14, 63 of 56 and 74 of 69, and for ``conv`` 73 of 23.
    """
    import tensorflow as tf

    rng = np.random.default_rng(seed)

    def values(name: str, shape: Shape) -> Any:
        if len(shape) == 1:
            return np.full(shape, float(name.endswith(GAMMA)), np.float32)
        fan_in = np.prod(shape[:2]) if "depthwise" in name else np.prod(shape[:-1])
        drawn = rng.normal(0.0, np.sqrt(2.0 / fan_in), shape).astype(np.float32)
        is_kernel, is_stem = len(shape) == 4, name.startswith("0/")
        return BESIDE_IDENTITY * drawn + _identity(name, shape) if is_kernel and not is_stem else drawn

    return {name: tf.Variable(values(name, shape), name=name.replace("/", "_")) for name, shape in shapes.items()}


def _identity(name: str, shape: Shape) -> NDArray[np.float32]:
    """The kernel that hands each channel on, as far as there are as many on both sides."""
    inputs, outputs = shape[2:]
    kernel = np.zeros(shape, np.float32)
    middle(kernel, 1)[:] = 1.0 if "depthwise" in name else np.eye(inputs, outputs)
    return kernel


class _Unnormalised(NamedTuple):
    """A convolution that waits for its batch normalisation, into whose weights it may fold."""

    name: str
    apply: Callable[[Any], Any]
    kernel: Any
    shape: Sequence[int]
    """Of the output, for callers that ask for its channels."""


class Places:
    """Names the weights of each layer in the order of their use: ``conv0``, ``conv1``, ``depthwise0`` of a place."""

    def __init__(self) -> None:
        self.place, self._used = "", {"conv": 0, "depthwise": 0}

    def at(self, where: str) -> None:
        """Go to a layer: the weights that follow are those of this place."""
        self.place, self._used = where, {"conv": 0, "depthwise": 0}

    def next(self, what: Literal["conv", "depthwise"]) -> str:
        """Name of the weights of the next convolution."""
        number = self._used[what]
        self._used[what] = number + 1
        return f"{self.place}/{what}{number}"


class SharedLayers(Places):
    """Keras's layers as functions on tensors, over a supernet's variables; `at` says which place comes next.

    In mode ``infer`` it takes the statistics that the same net left in mode ``estimate``.
    """

    __name__ = "shared"

    def __init__(
        self, weights: dict[str, Any], mode: Mode, statistics: dict[str, tuple[Any, Any]] | None = None
    ) -> None:
        import keras

        super().__init__()
        self.layers, self.initializers = self, keras.initializers
        self.statistics = {} if statistics is None else statistics
        self._weights, self._mode = weights, mode

    def Conv2D(self, filters: int, kernel_size: Any, strides: int = 1, name: str = "", **_: Any) -> Any:  # noqa: N802
        """A convolution with the first `filters` of its place's; ``grey`` is the mean over the channels."""
        import tensorflow as tf

        if name == "grey":
            return lambda x: tf.reduce_mean(x, axis=-1, keepdims=True)
        name = self.next("conv")

        def layer(x: Any) -> _Unnormalised:
            kernel = first_inputs(middle(self._weights[name], kernel_size)[..., :filters], x.shape[-1])
            return _Unnormalised(name, lambda k: tf.nn.conv2d(x, k, strides, "SAME"), kernel, (filters,))

        return layer

    def DepthwiseConv2D(self, kernel_size: Any, strides: int = 1, **_: Any) -> Callable[[Any], Any]:  # noqa: N802
        """A depthwise convolution with the first channels of its place's."""
        import tensorflow as tf

        name = self.next("depthwise")

        def layer(x: Any) -> _Unnormalised:
            kernel, steps = middle(self._weights[name], kernel_size)[:, :, : x.shape[-1]], (1, strides, strides, 1)
            return _Unnormalised(
                name, lambda k: tf.nn.depthwise_conv2d(x, k, steps, "SAME"), kernel, (int(x.shape[-1]),)
            )

        return layer

    def BatchNormalization(self, **_: Any) -> Callable[[_Unnormalised], Any]:  # noqa: N802
        """Normalise by the batch, or fold the remembered statistics into the kernel."""
        return self._folded if self._mode == "infer" else self._normalised

    def _scale(self, waiting: _Unnormalised) -> tuple[Any, Any]:
        gamma, beta = (self._weights[f"{waiting.name}/{which}"] for which in (GAMMA, BETA))
        return gamma[: waiting.shape[-1]], beta[: waiting.shape[-1]]

    def _normalised(self, waiting: _Unnormalised) -> Any:
        import tensorflow as tf

        gamma, beta = self._scale(waiting)
        y, mean, variance = tf.compat.v1.nn.fused_batch_norm(
            waiting.apply(waiting.kernel), gamma, beta, epsilon=EPSILON, is_training=True
        )
        if self._mode == "estimate":
            self.statistics[waiting.name] = (mean, variance)
        return y

    def _folded(self, waiting: _Unnormalised) -> Any:
        import tensorflow as tf

        gamma, beta = self._scale(waiting)
        mean, variance = self.statistics[waiting.name]
        scale = gamma * tf.math.rsqrt(variance + EPSILON)
        outputs = scale[:, None] if "depthwise" in waiting.name else scale
        return tf.nn.bias_add(waiting.apply(waiting.kernel * outputs), beta - mean * scale)

    def ReLU(self) -> Callable[[Any], Any]:  # noqa: N802
        """Rectify."""
        import tensorflow as tf

        relu: Callable[[Any], Any] = tf.nn.relu
        return relu

    def Add(self) -> Callable[[Sequence[Any]], Any]:  # noqa: N802
        """Add two tensors."""
        return lambda pair: pair[0] + pair[1]

    def AveragePooling2D(self, pool_size: Any, **_: Any) -> Callable[[Any], Any]:  # noqa: N802
        """Mean over squares of pixels."""
        import tensorflow as tf

        return lambda x: tf.nn.avg_pool2d(x, pool_size, pool_size, "SAME")

    def GlobalAveragePooling2D(self, **_: Any) -> Callable[[Any], Any]:  # noqa: N802
        """Mean over height and width."""
        import tensorflow as tf

        return lambda x: tf.reduce_mean(x, axis=(1, 2))

    def Dense(self, units: int, **_: Any) -> Callable[[Any], Any]:  # noqa: N802
        """The head behind the last stage; its units are the classes."""
        kernel, bias = (self._weights[f"{self.place}/{name}"] for name in ("kernel", "bias"))
        return lambda x: x @ kernel[: x.shape[-1], :units] + bias


def middle(kernel: Any, size: Any) -> Any:
    """The middle of a kernel that is at least as large."""
    sides = (size, size) if isinstance(size, int) else size
    (top, height), (left, width) = (
        ((whole - min(side, whole)) // 2, min(side, whole)) for whole, side in zip(kernel.shape[:2], sides, strict=True)
    )
    return kernel[top : top + height, left : left + width]


def first_inputs(kernel: Any, channels: int) -> Any:
    """The part of a kernel for the first channels; for a single, grey one its sum, which is the same for equal ones."""
    import tensorflow as tf

    return tf.reduce_sum(kernel, axis=2, keepdims=True) if channels == 1 else kernel[:, :, :channels]
