"""A candidate's own Keras net with its part of a supernet's weights, to hold the shared layers against."""

from typing import Any

import numpy as np

from hybrid.normalisation import FusedBatchNormalization
from nas.shared import BETA, GAMMA, Places, first_inputs, middle
from nas.supernet import apply


def inherited_net(supernet: Any, arch: Any) -> Any:
    """The Keras net of `arch` with inherited weights and statistics, like one of `hybrid.nets.build_net`."""
    import keras

    k = InheritingLayers(keras, supernet.weights, supernet.statistics(arch))
    inputs = keras.Input(arch.input_shape, name="input")
    net = keras.Model(inputs, apply(k, inputs, arch), name=arch.name.replace("-", "_"))
    k.inherit()
    return net


class InheritingLayers(Places):
    """Keras's layers, each remembered with the place that its weights come from; `inherit` fills them."""

    __name__ = "inheriting"

    def __init__(self, k: Any, weights: dict[str, Any], statistics: dict[str, tuple[Any, Any]]) -> None:
        super().__init__()
        self.layers, self.initializers = self, k.initializers
        self._k, self._weights, self._statistics = k, weights, statistics
        self._made: list[tuple[Any, str]] = []
        self._name = ""

    def __getattr__(self, name: str) -> Any:
        """Layers without weights are Keras's own."""
        return getattr(self._k.layers, name)

    def Conv2D(self, *given: Any, **named: Any) -> Any:  # noqa: N802
        """A convolution; ``grey`` keeps its first weights, the mean."""
        layer = self._k.layers.Conv2D(*given, **named)
        return layer if named.get("name") == "grey" else self._remember(layer, self.next("conv"))

    def DepthwiseConv2D(self, *given: Any, **named: Any) -> Any:  # noqa: N802
        """A depthwise convolution."""
        return self._remember(self._k.layers.DepthwiseConv2D(*given, **named), self.next("depthwise"))

    def BatchNormalization(self, **named: Any) -> Any:  # noqa: N802
        """The normalisation of the convolution before it."""
        return self._remember(FusedBatchNormalization(**named), self._name)

    def Dense(self, *given: Any, **named: Any) -> Any:  # noqa: N802
        """The head."""
        return self._remember(self._k.layers.Dense(*given, **named), self.place)

    def _remember(self, layer: Any, name: str) -> Any:
        self._name = name
        self._made.append((layer, name))
        return layer

    def inherit(self) -> None:
        """Give every layer, now that each is built, its part of the weights."""
        for layer, name in self._made:
            layer.set_weights([np.asarray(part) for part in self._parts(layer, name)])

    def _parts(self, layer: Any, name: str) -> list[Any]:
        shape = layer.get_weights()[0].shape
        if len(shape) == 1:
            values = [self._weights[f"{name}/{which}"][: shape[0]] for which in (GAMMA, BETA)]
            return [*values, *self._statistics[name]]
        if len(shape) == 2:
            return [self._weights[f"{name}/kernel"][: shape[0]], self._weights[f"{name}/bias"]]
        kernel = middle(self._weights[name], shape[:2])
        return [kernel[:, :, : shape[2]] if "depthwise" in name else first_inputs(kernel[..., : shape[3]], shape[2])]
