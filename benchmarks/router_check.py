"""One seed of each kind kept beside the results, small enough for the repository, and run again as a check.

Kept are the device programs (int8 nets and integer routers) and the cloud's answers on test. Run again over the test
images they must give the recorded figures; int8 arithmetic leaves only the rounding of the host's kernels.
"""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datasets import load
from datasets.errors import DatasetError
from hybrid import sweep
from hybrid.cascade import DeviceProgram
from hybrid.predict import run_program
from hybrid.program_json import program_from, program_values

TOLERANCE = 0.005


def keep(path: Path, programs: dict[str, tuple[str, DeviceProgram, NDArray[np.int32], float]]) -> None:
    """Write programs by name: the data set, the program, the cloud's classes on test ``(n,)``, the nAUC it reached."""
    arrays: dict[str, Any] = {}
    described = {}
    for name, (dataset, program, cloud, nauc) in programs.items():
        described[name] = {"dataset": dataset, "program": program_values(program), "nauc": nauc}
        arrays[f"{dataset}/cloud"] = cloud.astype(np.uint8)
        for index, stage in enumerate(program.stages):
            arrays[f"{name}/{index}"] = np.frombuffer(stage.flatbuffer, np.uint8)
    arrays["programs"] = np.frombuffer(json.dumps(described).encode(), np.uint8)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    path.write_bytes(buffer.getvalue())


def check(path: Path) -> list[str]:
    """Run every kept program again over its test images; a line for each.

    Raises: SystemExit where a figure is not the recorded one.
    """
    with np.load(path) as stored:
        arrays = {name: stored[name] for name in stored.files}
    lines = []
    for name, kept in json.loads(arrays["programs"].tobytes()).items():
        try:
            split = load(kept["dataset"]).test
        except DatasetError as exc:
            lines.append(f"{name}: not checked, {exc}")
            continue
        flatbuffers = [arrays[f"{name}/{index}"].tobytes() for index in range(len(kept["program"]["stages"]))]
        said = run_program(program_from(kept["program"], flatbuffers), split.x, engine="host", label=name)
        cloud = arrays[f"{kept['dataset']}/cloud"]
        nauc = sweep.nauc(said.score, said.logits.argmax(axis=1) == split.y, cloud == split.y)
        lines.append(f"{name}: nAUC {nauc:.4f}, recorded {kept['nauc']:.4f}")
        if abs(nauc - kept["nauc"]) > TOLERANCE:
            raise SystemExit(f"error: {lines[-1]}; run the benchmark in full")
    return lines
