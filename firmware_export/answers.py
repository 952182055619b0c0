"""Everything that a device says about examples: what it must say, what its C said, and where the two differ.

The C is a bundle's own with the ahead-of-time engine and ``emulate/target/answers.c``, on this machine or on an
emulated board; what it must say is TFLite Micro's, with the router and the payload in Python.
"""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from firmware_export.emulate import programs
from firmware_export.host import compile_c, run_device, run_program
from firmware_export.payload import MODEL_DIGEST_BYTES, Encoding, Query, encode_payloads, payload_bytes
from firmware_export.tflm import AOT_FOLDER, PLAIN_UNITS
from hybrid.cascade import DeviceProgram
from hybrid.errors import HybridError
from hybrid.runtimes import to_int8

MAIN = "answers.c"
_FIELDS = ("edge_class", "score", "stage", "kept")


@dataclass(frozen=True, kw_only=True)
class Contract:
    """What decides what a device must say, beside the examples."""

    program: DeviceProgram
    num_classes: int
    input_shape: tuple[int, int, int]
    threshold: int
    encoding: Encoding


@dataclass(frozen=True, kw_only=True, eq=False)
class Answers:
    """What is said of `n` examples."""

    edge_class: NDArray[np.int32]
    score: NDArray[np.int32]
    stage: NDArray[np.int32]
    kept: NDArray[np.int32]
    """1: the edge's answer stands; 0: the cloud is asked."""
    logits: NDArray[np.int8]
    """``(n, classes)``."""
    payloads: tuple[bytes, ...]
    """The query of each, whether it is sent or not."""


def expected_answers(contract: Contract, pixels: NDArray[np.uint8]) -> Answers:
    """Ask TFLite Micro (or what stands in for it) and Python's router about stored images ``(n, h, w, c)``."""
    said = run_device(contract.program, to_int8(pixels))
    edge_class, score = said.logits.argmax(axis=1).astype(np.int32), said.score.astype(np.int32)
    model = bytes.fromhex(contract.program.digest)[:MODEL_DIGEST_BYTES]
    queries = [
        Query(pixels=example, edge_class=int(answer), score=int(value), model=model)
        for example, answer, value in zip(pixels, edge_class, score, strict=True)
    ]
    return Answers(
        edge_class=edge_class,
        score=score,
        stage=said.stage,
        kept=(score >= contract.threshold).astype(np.int32),
        logits=said.logits,
        payloads=tuple(encode_payloads(queries, contract.encoding)),
    )


def read_answers(contract: Contract, stream: bytes, count: int) -> Answers:
    """Read what ``answers.c`` wrote about `count` examples. Raises: HybridError where that is something else."""
    most = payload_bytes(contract.input_shape, contract.encoding)
    row = np.dtype([("numbers", "<i4", 5), ("logits", "i1", contract.num_classes), ("payload", "u1", most)])
    if len(stream) != count * row.itemsize:
        raise HybridError(f"firmware: wrote {len(stream):,} bytes, expected {count * row.itemsize:,}; export it again")
    rows = np.frombuffer(stream, row)
    *fields, sizes = rows["numbers"].T
    payloads = zip(rows["payload"], sizes, strict=True)
    return Answers(
        **dict(zip(_FIELDS, fields, strict=True)),
        logits=rows["logits"],
        payloads=tuple(payload[:size].tobytes() for payload, size in payloads),
    )


def differences(expected: Answers, got: Answers) -> Iterator[str]:
    """Name each value that differs, by example."""
    for row in range(len(expected.score)):
        pairs: list[tuple[str, Any, Any]] = [
            (name, int(getattr(expected, name)[row]), int(getattr(got, name)[row])) for name in _FIELDS
        ]
        pairs.append(("logits", expected.logits[row].tolist(), got.logits[row].tolist()))
        pairs.append(("payload", expected.payloads[row].hex(), got.payloads[row].hex()))
        for name, want, found in pairs:
            if want != found:
                yield f"example {row}: {name} must be {_short(want)}, is {_short(found)}"


def _short(value: object, most: int = 120) -> str:
    text = str(value)
    return text if len(text) <= most else f"{text[:most]}..."


def aot_sources(firmware: Mapping[str, bytes]) -> dict[str, bytes]:
    """Choose of a bundle's ``firmware/``, by path there, what is compiled with the ahead-of-time engine."""

    def wanted(path: str) -> bool:
        return path in PLAIN_UNITS or path.endswith(".h") or path.startswith(f"{AOT_FOLDER}/")

    return {path: text for path, text in firmware.items() if wanted(path)}


def answering_sources(firmware: Mapping[str, bytes]) -> dict[str, bytes]:
    """Add the main program that says everything."""
    return {**aot_sources(firmware), MAIN: (programs.TARGET / MAIN).read_bytes()}


def host_answers(
    contract: Contract, firmware: Mapping[str, bytes], pixels: NDArray[np.uint8], *, flags: Sequence[str] = ("-O1",)
) -> Answers:
    """Build a bundle's ``firmware/`` with the ahead-of-time engine for this machine, and ask it.

    Raises: HybridError where there is no C compiler, where it complains, or where the program fails.
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        sources = answering_sources(firmware)
        for path, text in sources.items():
            (folder / path).parent.mkdir(exist_ok=True)
            (folder / path).write_bytes(text)
        units = [path for path in sources if path.endswith(".c")]
        includes = ("-I.", f"-I{AOT_FOLDER}", f"-I{programs.TARGET / 'stdio'}")
        program = compile_c(folder, "answers", (*flags, *includes, *units), "the firmware")
        stream = run_program([program], pixels.tobytes(), "the firmware")
    return read_answers(contract, stream, len(pixels))
