"""Runs through the command itself, on tiny data with tiny nets."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
STAGES = ("cloud", "supernet", "search", "edge", "alternate", "quantize", "router", "predict", "sweep")
TRIALS = 6
TINY = f"""
[search]
trials = {TRIALS}
supernet_epochs = 1
supernet_rows = 500
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


def hybrid(*words, code=0):
    """Run the command, which must end with `code`; gives standard output and standard error."""
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
