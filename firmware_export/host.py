"""Run what a bundle holds on this machine: the net as the device does, the plain C with the system's compiler.

TFLite Micro's Python interpreter has the device's kernels and so is the truth; where it is missing, what stands in is
told by `hybrid.runtimes.device_engine`.
"""

import ctypes
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from firmware_export.flatbuffer import read_graph, stage_signature
from firmware_export.payload import Encoding, Query
from firmware_export.tflm import PLAIN_UNITS
from hybrid.cascade import DeviceOutputs, DeviceProgram
from hybrid.device_router import StoredOutputs
from hybrid.errors import BundleError, HybridError, UnsupportedOpError
from hybrid.predict import device_outputs
from hybrid.runtimes import ENGINE_TITLES, Step, device_engine, device_step

WARNINGS = ("-Wall", "-Wextra", "-Wconversion", "-Wdouble-promotion", "-Werror")
C_FLAGS = ("-std=c99", *WARNINGS)
CXX_FLAGS = ("-std=c++17", *WARNINGS)
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g")
_LOG_BYTES = 1 << 16
_SAID_CHARACTERS = 4000
"""Of a program's complaint, the last ones."""
_SIZE_UNIT = "example_bytes.c"
_SIZE_OF_EXAMPLE = """#include "hybrid_router.h"
extern const int example_bytes;
const int example_bytes = (int)sizeof(hybrid_example_t);
"""


def run_device(program: DeviceProgram, inputs: NDArray[np.int8]) -> DeviceOutputs:
    """Run `program` over int8 `inputs` ``(n, h, w, c)``, its nets in TFLite Micro or what stands in for it.

    Raises: UnsupportedOpError with the engine's own words where it refuses a net; BundleError for other inputs.
    """
    shape = stage_signature(read_graph(program.stages[0].flatbuffer)).input.shape[1:]
    if inputs.dtype != np.int8 or inputs.shape[1:] != shape:
        expected = f"int8 (n, {', '.join(map(str, shape))})"
        raise BundleError(f"edge: inputs are {inputs.dtype} {inputs.shape}, expected {expected}")
    return device_outputs(program, inputs, _run)


def _run(flatbuffer: bytes, inputs: NDArray[Any]) -> list[NDArray[np.int8]]:
    step = _step(flatbuffer)
    answers = [step(example[np.newaxis]) for example in inputs]
    return [np.concatenate(outputs) for outputs in zip(*answers, strict=True)]


def _step(flatbuffer: bytes) -> Step:
    with _captured_stderr() as log:
        try:
            return device_step(flatbuffer)
        except (RuntimeError, ValueError) as exc:
            reason = " ".join(log().split()) or str(exc)
            raise UnsupportedOpError(f"model: refused by {ENGINE_TITLES[device_engine()]}: {reason}") from exc


@contextmanager
def _captured_stderr() -> Iterator[Callable[[], str]]:
    """Catch what C code writes to file descriptor 2; the context yields what was written so far."""
    sys.stderr.flush()
    saved = os.dup(2)
    with tempfile.TemporaryFile() as log:
        os.dup2(log.fileno(), 2)
        try:
            yield lambda: os.pread(log.fileno(), _LOG_BYTES, 0).decode("utf-8", "replace")
        finally:
            os.dup2(saved, 2)
            os.close(saved)


class _Result(ctypes.Structure):
    """hybrid_result_t."""

    _fields_ = (
        ("class_index", ctypes.c_int32),
        ("score", ctypes.c_int8),
        ("stage", ctypes.c_int32),
        ("decision", ctypes.c_int),
        ("logits", ctypes.POINTER(ctypes.c_int8)),
    )


class Judgements(NamedTuple):
    """What the router's C says of `n` examples after the last stage it was given."""

    logits: NDArray[np.int8]
    """Mixed, ``(n, classes)``."""
    score: NDArray[np.int8]
    edge_class: NDArray[np.int64]
    decision: NDArray[np.int64]
    """0: ask the cloud, 1: keep, 2: look again."""
    stage: NDArray[np.int64]


class CompiledDecision:
    """The bundle's plain C (router, decision, payload), compiled and loaded here.

    The code runs in this process: give it only sources that were generated here or come from someone trusted.
    """

    def __init__(self, library: ctypes.CDLL, example_bytes: int) -> None:
        self._library, self._example_bytes = library, example_bytes
        library.hybrid_status_text.restype = ctypes.c_char_p
        library.hybrid_class_name.restype = ctypes.c_char_p

    @property
    def threshold(self) -> int:
        """The threshold in force."""
        return int(self._library.hybrid_threshold())

    def set_threshold(self, threshold: int) -> None:
        """Choose any threshold. Raises: HybridError with the C code's own words."""
        self._check(self._library.hybrid_set_threshold(threshold))

    def set_operating_point(self, index: int) -> None:
        """Choose by place in the table. Raises: HybridError with the C code's own words."""
        self._check(self._library.hybrid_set_operating_point(index))

    def class_name(self, index: int) -> str | None:
        """Name a class; None outside the range."""
        raw: bytes | None = self._library.hybrid_class_name(index)
        return None if raw is None else raw.decode()

    def decide(self, logits: NDArray[np.int8], score: int) -> tuple[int, bool]:
        """Return the class, and whether the edge keeps the example, for `logits` ``(classes,)``."""
        result = _Result()
        values = np.ascontiguousarray(logits, np.int8)
        self._check(self._library.hybrid_decide(_pointer(values), ctypes.c_int8(score), ctypes.byref(result)))
        return result.class_index, bool(result.decision)

    def judge(self, stages: Sequence[StoredOutputs]) -> Judgements:
        """Let the router judge `n` examples by what the nets of stages 0, 1 and so on said of them."""
        made = [self._judge_one(row, stages) for row in range(len(stages[0].logits))]
        logits, rest = zip(*made, strict=True)
        score, edge_class, decision, stage = np.array(rest).T
        return Judgements(np.array(logits), score.astype(np.int8), edge_class, decision, stage)

    def _judge_one(self, row: int, stages: Sequence[StoredOutputs]) -> tuple[NDArray[np.int8], tuple[int, ...]]:
        result, example = _Result(), ctypes.create_string_buffer(self._example_bytes)
        for number, outputs in enumerate(stages):
            logits, features = (np.ascontiguousarray(part[row]) for part in (outputs.logits, outputs.features))
            call = (_pointer(logits), _pointer(features), example, ctypes.byref(result))
            self._check(self._library.hybrid_judge(number, *call))
        mixed = np.array(result.logits[: stages[0].logits.shape[1]], np.int8)
        return mixed, (result.score, result.class_index, result.decision, result.stage)

    def payload(self, query: Query, encoding: Encoding, capacity: int | None = None) -> bytes:
        """Return what the device sends; `capacity` is the buffer's, by default what a size query answers."""
        pixels = np.ascontiguousarray(query.pixels, np.uint8)
        result = _Result(class_index=query.edge_class, score=query.score)
        size = ctypes.c_size_t()
        call = (get_args(Encoding).index(encoding), _pointer(pixels), ctypes.byref(result))
        encode = self._library.hybrid_payload_encode
        self._check(encode(*call, None, ctypes.c_size_t(0), ctypes.byref(size)))
        room = size.value if capacity is None else capacity
        buffer = (ctypes.c_uint8 * room)()
        self._check(encode(*call, buffer, ctypes.c_size_t(room), ctypes.byref(size)))
        return bytes(buffer[: size.value])

    def answer_class(self, answer: bytes) -> int:
        """Read the class out of the cloud's answer. Raises: HybridError with the C code's own words."""
        index = ctypes.c_int32()
        self._check(self._library.hybrid_answer_class(answer, ctypes.c_size_t(len(answer)), ctypes.byref(index)))
        return index.value

    def _check(self, status: int) -> None:
        if status != 0:
            raise HybridError(f"firmware: {self._library.hybrid_status_text(status).decode()}")


def compile_decision(sources: Mapping[str, bytes]) -> CompiledDecision:
    """Compile the plain C among `sources` (file name -> text) with every warning an error, and load it.

    Raises: HybridError where there is no C compiler or it complains.
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        for name, text in sources.items():
            if name in PLAIN_UNITS or (name.endswith(".h") and "/" not in name):
                Path(folder, name).write_bytes(text)
        Path(folder, _SIZE_UNIT).write_text(_SIZE_OF_EXAMPLE)
        arguments = ("-O1", "-shared", "-fPIC", *PLAIN_UNITS, _SIZE_UNIT)
        library = ctypes.CDLL(str(compile_c(Path(folder), "decision.so", arguments, "the firmware")))
        return CompiledDecision(library, ctypes.c_int.in_dll(library, "example_bytes").value)


def compile_c(folder: Path, output: str, arguments: Sequence[str], what: str) -> Path:
    """Compile C in `folder` to the file `output` there, with every warning an error; `what` is it that is compiled.

    Raises: HybridError where there is no C compiler or it complains.
    """
    command = [c_compiler(), *C_FLAGS, *arguments, "-o", output]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = done.stderr.strip()[-_SAID_CHARACTERS:]
        raise HybridError(f"{command[0]}: {what}'s C does not compile: {said}")
    return folder / output


def run_program(command: Sequence[str | Path], data: bytes, what: str) -> bytes:
    """Let a program that is `what` read `data`, and give what it writes. Raises: HybridError where it fails."""
    done = subprocess.run(command, input=data, capture_output=True, check=False)
    if done.returncode != 0:
        said = done.stderr.decode("utf-8", "replace").strip()[-_SAID_CHARACTERS:]
        raise HybridError(f"{what} ended with {done.returncode}: {said or 'no message'}")
    return done.stdout


def has_c_compiler() -> bool:
    """Whether there is a C compiler here."""
    try:
        c_compiler()
    except HybridError:
        return False
    return True


def c_compiler() -> str:
    """Find the system's C compiler. Raises: HybridError where there is none."""
    for name in (os.environ.get("CC", ""), "cc", "gcc", "clang"):
        if name and (path := shutil.which(name)):
            return path
    raise HybridError("no C compiler found (looked for $CC, cc, gcc, clang); install gcc")


def _pointer(values: NDArray[Any]) -> ctypes.c_void_p:
    return values.ctypes.data_as(ctypes.c_void_p)
