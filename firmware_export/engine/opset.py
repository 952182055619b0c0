"""The operators that the engine knows: what each reads, and its options as the schema lists them.

Sources: ``schema.fbs`` of tflite-micro at 90b983c (2026-08), and the ``Prepare`` functions of its kernels.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

from hybrid.schema import schema

_ACT = "fused_activation_function:ActivationFunctionType"
_OPTIONS = {
    "AddOptions": f"{_ACT} pot_scale_int16:bool=1",
    "ConcatenationOptions": f"axis:int {_ACT}",
    "Conv2DOptions": f"padding:Padding stride_w:int stride_h:int {_ACT} dilation_w_factor:int=1 "
    "dilation_h_factor:int=1 quantized_bias_type:TensorType",
    "DepthwiseConv2DOptions": f"padding:Padding stride_w:int stride_h:int depth_multiplier:int {_ACT} "
    "dilation_w_factor:int=1 dilation_h_factor:int=1",
    "DequantizeOptions": "",
    "ExpandDimsOptions": "",
    "FullyConnectedOptions": f"{_ACT} weights_format:FullyConnectedOptionsWeightsFormat keep_num_dims:bool "
    "asymmetric_quantize_inputs:bool quantized_bias_type:TensorType",
    "HardSwishOptions": "",
    "LeakyReluOptions": "alpha:float",
    "MulOptions": f"{_ACT}",
    "PadOptions": "",
    "PadV2Options": "",
    "Pool2DOptions": f"padding:Padding stride_w:int stride_h:int filter_width:int filter_height:int {_ACT}",
    "QuantizeOptions": "",
    "ReducerOptions": "keep_dims:bool",
    "ReshapeOptions": "new_shape:[int]",
    "ResizeNearestNeighborOptions": "align_corners:bool half_pixel_centers:bool",
    "SoftmaxOptions": "beta:float",
    "SplitOptions": "num_splits:int",
    "SqueezeOptions": "squeeze_dims:[int]",
    "StridedSliceOptions": "begin_mask:int end_mask:int ellipsis_mask:int new_axis_mask:int shrink_axis_mask:int "
    "offset:bool",
    "SubOptions": f"{_ACT} pot_scale_int16:bool=1",
    "TransposeOptions": "",
}
ENUMS = ("ActivationFunctionType", "FullyConnectedOptionsWeightsFormat", "Padding", "TensorType")


@dataclass(frozen=True, kw_only=True)
class Kind:
    """An operator: name of its options' table, and what it reads."""

    options: str | None
    reads: str
    """One word per input: ``x`` values, ``w`` constant weights, ``b`` a constant int32 bias, ``i`` constant int32
    numbers, ``c`` a constant of the type of the values; ``?``: may be left out, ``*``: one or more."""
    moves_only: bool = False
    """Stored values go to the output as they are: the quantisation does not matter."""


def _kind(options: str | None, reads: str = "x", *, moves_only: bool = False) -> Kind:
    return Kind(options=options and f"{options}Options", reads=reads, moves_only=moves_only)


KINDS = {
    "ADD": _kind("Add", "x x"),
    "AVERAGE_POOL_2D": _kind("Pool2D"),
    "CONCATENATION": _kind("Concatenation", "x*", moves_only=True),
    "CONV_2D": _kind("Conv2D", "x w b?"),
    "DEPTHWISE_CONV_2D": _kind("DepthwiseConv2D", "x w b?"),
    "DEQUANTIZE": _kind("Dequantize"),
    "EXPAND_DIMS": _kind("ExpandDims", "x i", moves_only=True),
    "FULLY_CONNECTED": _kind("FullyConnected", "x w b?"),
    "HARD_SWISH": _kind("HardSwish"),
    "LEAKY_RELU": _kind("LeakyRelu"),
    "LOGISTIC": _kind(None),
    "MAX_POOL_2D": _kind("Pool2D"),
    "MEAN": _kind("Reducer", "x i"),
    "MUL": _kind("Mul", "x x"),
    "PAD": _kind("Pad", "x i"),
    "PADV2": _kind("PadV2", "x i c"),
    "QUANTIZE": _kind("Quantize"),
    "RELU": _kind(None),
    "RELU6": _kind(None),
    "RESHAPE": _kind("Reshape", "x i?", moves_only=True),
    "RESIZE_NEAREST_NEIGHBOR": _kind("ResizeNearestNeighbor", "x i", moves_only=True),
    "SOFTMAX": _kind("Softmax"),
    "SPLIT": _kind("Split", "i x", moves_only=True),
    "SQUEEZE": _kind("Squeeze", moves_only=True),
    "STRIDED_SLICE": _kind("StridedSlice", "x i i i", moves_only=True),
    "SUB": _kind("Sub", "x x"),
    "TANH": _kind(None),
    "TRANSPOSE": _kind("Transpose", "x i", moves_only=True),
}
"""By TFLite's names."""


@cache
def fields(table: str) -> tuple[tuple[str, str, Any], ...]:
    """Give the fields of a table of options in the schema's order: name, type, default.

    >>> fields("SoftmaxOptions"), fields("AddOptions")[1]
    ((('beta', 'float', 0),), ('pot_scale_int16', 'bool', 1))
    """
    listed = [f"{field}=0".replace(":", "=").split("=")[:3] for field in _OPTIONS[table].split()]
    return tuple((name, kind, int(default)) for name, kind, default in listed)


@cache
def names(enum: str) -> dict[int, str]:
    """Give an enumeration of the schema: number to name.

    >>> names("Padding")
    {0: 'SAME', 1: 'VALID'}
    """
    return {number: name for name, number in vars(getattr(schema(), enum)).items() if isinstance(number, int)}
