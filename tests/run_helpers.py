"""Runs through the command itself, on tiny data with tiny nets."""

import io
import json
import subprocess
import sys
import warnings
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest

from hybrid.cli import main

ROOT = Path(__file__).parents[1]
STAGES = ("cloud", "supernet", "search", "edge", "alternate", "quantize", "router", "predict", "sweep")
TRIALS = 6
TINY = f"""
[search]
trials = {TRIALS}
supernet_epochs = 1
supernet_rows = 500
probe_epochs = 1
[cloud]
width = 8
epochs = 1
[train]
edge_epochs = 1
batch_size = 64
[router]
epochs = 3
teachers = 1
teacher_epochs = 2
students = 1
[quantize]
representative_rows = 50
[export]
golden_examples = 8
"""


def command(*words):
    return [sys.executable, "-m", "hybrid.cli", *map(str, words)]


def end_of(*words):
    """Call the command in this process; gives its exit code."""
    with patch.object(sys, "argv", ["hybrid", *map(str, words)]), pytest.raises(SystemExit) as stop:
        main()
    return stop.value.code or 0


def hybrid(*words, code=0):
    """Run the command in this process; it must end with `code`. Gives what it wrote to standard output and error.

    What native libraries write is not among it, and nothing has to be loaded anew: see `apart`.
    """
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    with redirect_stdout(out), redirect_stderr(err), warnings.catch_warnings():
        ended = end_of(*words)
    said = [stream.buffer.getvalue().decode() for stream in (out, err)]
    assert ended == code, said[1]
    return said


def apart(*words, code=0):
    """Run the command as a process of its own, which must end with `code`; gives standard output and error."""
    done = subprocess.run(command(*words), cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    return done.stdout, done.stderr


def stripes(n=500, classes=4, size=12):
    """Noisy grey images with a stripe where the class says, ``(n, size, size)``, and their labels."""
    rng = np.random.default_rng(1)
    y = np.arange(n) % classes
    x = rng.integers(0, 200, (n, size, size))
    x[np.arange(n), y * size // classes] += 55
    return x.astype(np.uint8), y


def stamps(folder):
    """When each stage was made."""
    return {name: (folder / name / ".stage.json").stat().st_mtime_ns for name in STAGES}


def tree(folder):
    """Every file below `folder` and its bytes."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def read(path):
    return json.loads(path.read_text())
