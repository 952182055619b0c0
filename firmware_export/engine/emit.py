"""Layers and a memory plan become C sources: the same model, the same text."""

from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader

from firmware_export.ctext import c_float, c_ints, templates_of
from firmware_export.engine.graph import Graph, Tensor
from firmware_export.engine.layer import Call, Constant, Layer
from firmware_export.engine.memory import Memory

_NEEDS = {
    "conv": ("tiles",),
    "few": ("conv", "tiles"),
    "winograd": ("conv", "tiles"),
    "fully_connected": ("tiles",),
    "planes": ("clamp", "plane_fill"),
    "planes_own": ("clamp", "plane_fill", "planes"),
    "planes_any": ("clamp", "plane_fill"),
    "planes_any_own": ("clamp", "plane_fill", "planes_any"),
    "sum": ("pairs",),
    "linear_sum": ("clamp", "pairs"),
    "product": ("clamp", "pairs"),
    "pool": ("fours",),
    "mean": ("fours",),
    "lean_conv": ("lean",),
    "lean_fully_connected": ("lean",),
    "lean_depthwise": ("lean",),
}
"""Families of kernels that others call."""
_ORDER = (
    "core",
    "clamp",
    "tiles",
    "conv",
    "few",
    "winograd",
    "fully_connected",
    "depthwise",
    "plane_fill",
    "planes",
    "planes_own",
    "planes_any",
    "planes_any_own",
    "pairs",
    "sum",
    "linear_sum",
    "product",
    "fours",
    "pool",
    "mean",
    "move",
    "lookup",
    "softmax",
    "lean",
    "lean_conv",
    "lean_fully_connected",
    "lean_depthwise",
    "lean_sum",
)
_HEADERS = ("core", "lean")
"""Families that are only a header."""
_CTYPES = {"int8": "int8_t", "uint8": "uint8_t", "float32": "float"}


def model_files(
    graph: Graph,
    layers: tuple[Layer, ...],
    memory: Memory,
    *,
    prefix: str,
    kernels: str,
    arena: str | None,
    title: str,
) -> dict[str, str]:
    """Write the sources of one model, by file name; its kernels are in files that begin with `kernels`.

    So is its buffer in files that begin with `arena`; without, it has one of its own.
    """
    values = {"title": title, "prefix": prefix, "guard": prefix.upper(), "kernels": kernels, "arena": arena}
    constants = list(_constants(layers, graph, prefix, kernels))
    ends = list(_ends(graph, memory))
    blocks = [_layer(layer, step, graph, memory, prefix) for step, layer in enumerate(layers) if layer.calls]
    return {
        f"{prefix}.h": _render("model.h", **values, ends=ends, arena_bytes=max(memory.nbytes, 4)),
        f"{prefix}.c": _render("model.c", **values, ends=ends, layers=blocks),
        f"{prefix}_weights.h": _render("weights.h", **values, constants=constants),
        f"{prefix}_weights.c": _render("weights.c", **values, constants=constants),
    }


def families_of(layers: Iterable[Layer]) -> frozenset[str]:
    """The files of kernels that layers need."""
    families = {call.family for layer in layers for call in layer.calls}
    return frozenset({"core", *families, *(need for family in families for need in _NEEDS.get(family, ()))})


def kernel_files(kernels: str, families: frozenset[str]) -> dict[str, str]:
    """Write the sources of kernels, by file name; one set may serve several models."""
    headers = [_kernel_text(f"{name}.h", kernels) for name in _ORDER if name in families]
    sources = [_kernel_text(f"{name}.c", kernels) for name in _ORDER if name in families and name not in _HEADERS]
    return {
        f"{kernels}_kernels.h": _render("kernels.h", kernels=kernels, texts=headers),
        f"{kernels}_kernels.c": _render("kernels.c", kernels=kernels, texts=sources),
    }


def arena_files(arena: str, nbytes: int) -> dict[str, str]:
    """Write the sources of a buffer, by file name, for models of which the largest takes `nbytes`."""
    values = {"arena": arena, "guard": arena.upper(), "nbytes": nbytes}
    return {f"{arena}_arena.h": _render("arena.h", **values), f"{arena}_arena.c": _render("arena.c", **values)}


def _kernel_text(name: str, kernels: str) -> str:
    text = files("firmware_export.engine").joinpath("kernels", name).read_text(encoding="utf-8")
    return text.replace("engine_", f"{kernels}_").replace("ENGINE_", f"{kernels.upper()}_").strip() + "\n"


@cache
def _templates() -> Environment:
    return templates_of(PackageLoader("firmware_export.engine"))


def _render(name: str, **values: Any) -> str:
    return _templates().get_template(f"{name}.j2").render(**values)


def named_ends(graph: Graph) -> Iterator[tuple[str, Tensor]]:
    """Inputs, then outputs, by the names of the functions that give their places, such as ``input_0``."""
    for word, numbers in (("input", graph.inputs), ("output", graph.outputs)):
        for index, number in enumerate(numbers):
            yield f"{word}_{index}", graph.tensors[number]


def _ends(graph: Graph, memory: Memory) -> Iterable[dict[str, Any]]:
    for name, tensor in named_ends(graph):
        ctype = _CTYPES[tensor.dtype]
        yield {
            "name": name,
            "tensor": tensor.name,
            "dtype": tensor.dtype,
            "ctype": ctype,
            "cast": "" if ctype == "int8_t" else f"({ctype} *)(void *)",
            "shape": tensor.shape,
            "size": tensor.size,
            "scale": tensor.scales[0] if len(tensor.scales) == 1 else None,
            "zero_point": tensor.zero_points[0] if tensor.zero_points else 0,
            "offset": memory.tensors[tensor.number],
        }


def _layer(layer: Layer, step: int, graph: Graph, memory: Memory, prefix: str) -> dict[str, Any]:
    name = f"{prefix}_layer_{layer.number}"
    shape = " x ".join(map(str, layer.output_shape))
    calls = [
        {
            "name": f"{name}_{index}",
            "kernel": call.kernel,
            "struct": call.struct,
            "initialiser": _initialiser(call.fields, f"{name}_{index}"),
            "arguments": _arguments(call, f"{name}_{index}", graph, memory, step, prefix),
        }
        for index, call in enumerate(layer.calls)
    ]
    return {"number": layer.number, "name": name, "title": f"{layer.number}: {layer.kind} to {shape}", "calls": calls}


def _initialiser(fields: Mapping[str, Any], name: str) -> str:
    return "\n".join(f"    .{field} = {_value(value, f'{name}_{field}')}," for field, value in fields.items())


def _value(value: Any, name: str) -> str:
    if isinstance(value, Constant):
        return name
    if isinstance(value, Mapping):
        return "{" + ", ".join(f".{key} = {_value(inner, name)}" for key, inner in value.items()) + "}"
    if isinstance(value, tuple):
        return "{" + ", ".join(str(number) for number in value) + "}"
    return c_float(value) if isinstance(value, float) else str(value)


def _arguments(call: Call, name: str, graph: Graph, memory: Memory, step: int, prefix: str) -> str:
    places = [f"&{name}"]
    for number in (*call.reads, *call.writes):
        places.append(f"AT({memory.tensors[number]})" if number in memory.tensors else _operand(prefix, number))
    if call.scratch_bytes:
        places.append(f"AT({memory.scratch[step]})")
    return ", ".join(places)


def _operand(prefix: str, number: int) -> str:
    return f"{prefix}_tensor_{number}"


def _constants(layers: tuple[Layer, ...], graph: Graph, prefix: str, kernels: str) -> Iterable[dict[str, Any]]:
    seen: set[int] = set()
    for layer in layers:
        for index, call in enumerate(layer.calls):
            for number in call.reads:
                tensor = graph.tensors[number]
                if tensor.data is not None and number not in seen:
                    seen.add(number)
                    yield _constant(
                        Constant(values=np.asarray(tensor.data)), _operand(prefix, number), _named(tensor), ""
                    )
            for field, constant in call.constants.items():
                name = f"{prefix}_layer_{layer.number}_{index}_{field}"
                yield _constant(constant, name, f"{layer.number}: {layer.kind}, {field}", kernels)


def _named(tensor: Tensor) -> str:
    return f"tensor {tensor.number} '{tensor.name}'"


def _constant(constant: Constant, name: str, title: str, kernels: str) -> dict[str, Any]:
    values = constant.values
    if constant.ctype:
        rows = "\n".join("    {" + ", ".join(map(str, row)) + "}," for row in values.tolist())
        return {
            "ctype": f"{kernels}_{constant.ctype}_t",
            "count": len(values),
            "name": name,
            "title": title,
            "text": rows,
        }
    if values.dtype == np.float32:
        text = "\n".join(f"    {c_float(float(value))}," for value in values.ravel())
    else:
        text = c_ints(values.ravel())
    ctype = "float" if values.dtype == np.float32 else f"{values.dtype.name}_t"
    return {"ctype": ctype, "count": values.size, "name": name, "title": title, "text": text}


def harness_file(models: Iterable[tuple[str, Graph]]) -> str:
    """Write a main program that runs models, named by prefix, over examples from stdin."""
    values = [{"prefix": prefix, **_traffic(graph)} for prefix, graph in models]
    return _render("harness.c", models=values)


def measure_file(prefix: str, graph: Graph, examples: int, whole: int) -> str:
    """Write a main program for an emulated board, which counts each inference under the number `whole`."""
    return _render("measure.c", prefix=prefix, examples=examples, whole=whole, **_traffic(graph))


def readme_file(**values: Any) -> str:
    """Write what a firmware engineer has to know of a model's files."""
    return _render("README.md", **values)


def _traffic(graph: Graph) -> dict[str, list[dict[str, Any]]]:
    ends = [{"name": name, "nbytes": tensor.nbytes} for name, tensor in named_ends(graph)]
    return {"inputs": ends[: len(graph.inputs)], "outputs": ends[len(graph.inputs) :]}
