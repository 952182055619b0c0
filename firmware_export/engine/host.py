"""Compiled models on this machine: built by the system's C compiler, run as a process of their own."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from firmware_export.engine.compile import Compiled, program_files
from firmware_export.engine.emit import harness_file
from firmware_export.engine.graph import Graph
from firmware_export.host import SANITIZERS, compile_c, run_program

Values = list[NDArray[Any]]
"""One array per input or output, in the model's order."""


class Program:
    """An executable with one or more models in it."""

    def __init__(self, path: Path, models: Sequence[Compiled]) -> None:
        self._path, self._graphs = path, [model.graph for model in models]

    def run(self, examples: Sequence[Values], model: int = 0) -> list[Values]:
        """Give the outputs of one of the models for each example. Raises: HybridError where the process fails."""
        graph = self._graphs[model]
        written = run_program([self._path, str(model)], join_inputs(examples), "the compiled model")
        return split_outputs(graph, written, len(examples))


def join_inputs(examples: Sequence[Values]) -> bytes:
    """Write the inputs of examples as a program reads them."""
    return b"".join(np.ascontiguousarray(value).tobytes() for example in examples for value in example)


def split_outputs(graph: Graph, stream: bytes, count: int) -> list[Values]:
    """Cut what a program wrote into the outputs of `count` examples."""
    results, at = [], 0
    for _ in range(count):
        values = []
        for number in graph.outputs:
            tensor = graph.tensors[number]
            values.append(np.frombuffer(stream, tensor.dtype, tensor.size, at).reshape(tensor.shape))
            at += tensor.nbytes
        results.append(values)
    return results


@contextmanager
def built(
    models: Sequence[Compiled], *, sanitize: bool = False, optimise: str = "-O2", defines: Sequence[str] = ()
) -> Iterator[Program]:
    """Build models into one program, every warning an error. Models with the same kernels' name share them.

    Raises: HybridError where there is no C compiler or it complains.
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        texts = {"harness.c": harness_file([(model.prefix, model.graph) for model in models])}
        texts.update(program_files(models))
        for name, text in texts.items():
            Path(folder, name).write_text(text, encoding="utf-8")
        units = sorted(name for name in texts if name.endswith(".c"))
        flags = (optimise, *(SANITIZERS if sanitize else ()), *(f"-D{name}" for name in defines))
        yield Program(compile_c(Path(folder), "program", (*flags, *units), "the compiled model"), models)
