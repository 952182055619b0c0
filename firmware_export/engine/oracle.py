"""TFLite Micro's interpreter in a process of its own, since some models make it abort."""

import os
import pickle
import signal
import struct
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from types import TracebackType
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from hybrid.errors import HybridError, UnsupportedOpError
from hybrid.runtimes import ARENA_BYTES, device_engine

Values = list[NDArray[Any]]
_REFUSALS = (RuntimeError, ValueError, TypeError, struct.error)
"""Of TFLite Micro, and of its package, which reads more of a flatbuffer than is run."""
_SAID_CHARACTERS = 300


class Oracle:
    """Answers for one model, inside a ``with`` that ends the process."""

    def __init__(self, flatbuffer: bytes, outputs: int) -> None:
        """Load a model with so many outputs.

        Raises: UnsupportedOpError where TFLite Micro refuses it; HybridError where it is not installed.
        """
        if device_engine() != "tflite-micro":
            raise HybridError("TFLite Micro is missing, and nothing else tells what is exact; verify on Linux")
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        self._process = subprocess.Popen(
            [sys.executable, "-c", f"from {__name__} import serve; serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        try:
            self._ask((flatbuffer, outputs), "refuses it")
        except BaseException:
            self._stop()
            raise

    def __enter__(self) -> "Oracle":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def answers(self, examples: Sequence[Values]) -> list[Values]:
        """Give the outputs for each example. Raises: UnsupportedOpError where TFLite Micro fails or aborts."""
        found: list[Values] = self._ask(list(examples), "fails on it")
        return found

    def _ask(self, request: object, trouble: str) -> Any:
        stdin, stdout = cast(BinaryIO, self._process.stdin), cast(BinaryIO, self._process.stdout)
        try:
            _write(stdin, request)
            answer = pickle.load(stdout)
        except (OSError, EOFError):
            raise UnsupportedOpError(f"model: TFLite Micro aborts on it ({self._end()})") from None
        if isinstance(answer, str):
            raise UnsupportedOpError(f"model: TFLite Micro {trouble}: {answer}")
        return answer

    def _end(self) -> str:
        """How the process ended, and what it said last."""
        code = self._process.wait()
        self._said.seek(0)
        words = [signal.Signals(-code).name if code < 0 else f"exit code {code}"]
        words += self._said.read().decode("utf-8", "replace").split()
        return " ".join(words)[:_SAID_CHARACTERS]

    def _stop(self) -> None:
        self._process.kill()
        self._process.communicate()
        self._said.close()


def _write(stream: BinaryIO, value: object) -> None:
    pickle.dump(value, stream)
    stream.flush()


def serve() -> None:
    """Be that process: pickled requests come in on standard input, answers go out; a text is a refusal."""
    from tflite_micro import runtime

    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    try:
        flatbuffer, outputs = pickle.load(requests)
        interpreter = runtime.Interpreter.from_bytes(flatbuffer, arena_size=ARENA_BYTES)
        _write(answers, [])
        while True:
            _write(answers, [_outputs(interpreter, example, outputs) for example in pickle.load(requests)])
    except EOFError:
        return
    except _REFUSALS as exc:
        _write(answers, " ".join(str(exc).split()))


def _outputs(interpreter: Any, example: Values, outputs: int) -> Values:
    for index, value in enumerate(example):
        interpreter.set_input(value, index)
    interpreter.invoke()
    return [np.array(interpreter.get_output(index)) for index in range(outputs)]
