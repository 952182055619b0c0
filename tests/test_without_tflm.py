"""The product where tflite-micro has no package: what stands in is told wherever it speaks.

Linux has the package, so each process that runs `elsewhere` really cannot import it, nor can the workers it starts.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import flatbuffers
import numpy as np
import pytest
from tiny_edge import good_bundle, pixels, tiny_continuation, tiny_edge

from firmware_export.bundle import Bundle, file_entries, read, write
from firmware_export.edge import canonical_json
from firmware_export.flatbuffer import read_graph
from firmware_export.verify import verify
from hybrid import runtimes
from hybrid.artifacts import Affine
from hybrid.errors import BundleError
from hybrid.flatbuffers import Graph
from hybrid.progress import SILENT
from hybrid.schema import schema

pytestmark = pytest.mark.skipif(runtimes.device_engine() != "tflite-micro", reason="tflite-micro is missing")

ROOT = Path(__file__).parent.parent
REFUSAL = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("tflite_micro", "tflite_runtime"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Refuse())
"""


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    """Run Python without tflite_micro and tflite_runtime, as on macOS; the tiny edge net is already converted."""
    folder = tmp_path_factory.mktemp("elsewhere")
    (folder / "sitecustomize.py").write_text(REFUSAL)
    (folder / "tiny.tflite").write_bytes(tiny_edge())
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (folder, ROOT, ROOT / "tests")))}

    def run(*arguments, check=True):
        command = [sys.executable, *map(str, arguments)]
        done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0 or not check, done.stderr
        return done

    return run


def test_who_computes_here_and_elsewhere(elsewhere):
    assert runtimes.device_engine() == "tflite-micro"
    code = """
import sys
from hybrid.runtimes import device_engine
from hybrid.schema import schema
print(device_engine(), schema().__name__, "tensorflow" in sys.modules, "tflite_micro" in sys.modules)
"""
    assert elsewhere("-c", code).stdout.split() == [
        "litert-reference",
        "ai_edge_litert.schema_py_generated",
        "False",
        "False",
    ]


@pytest.mark.parametrize("engine", ["tflm", "host"])
def test_litert_answers_nearly_as_the_device_does(elsewhere, tmp_path, engine):
    """Logits, features and trunk of 250 examples, by two workers."""
    code = """
import sys
import numpy as np
from pathlib import Path
from tiny_edge import pixels
from hybrid import runtimes
outputs = runtimes.run(Path("tiny.tflite").read_bytes(), pixels(250), engine=sys.argv[2])
np.savez(sys.argv[1], *(output.reshape(250, -1) for output in outputs))
"""
    elsewhere("-c", code, tmp_path / "answers.npz", engine)
    with np.load(tmp_path / "answers.npz") as answers:
        litert = np.hstack([answers[name] for name in answers.files]).astype(int)
    outputs = runtimes.run(tiny_edge(), pixels(250), engine="tflm")
    device = np.hstack([output.reshape(250, -1) for output in outputs])
    assert litert.shape == (250, 3 + 4 + 36)
    assert np.abs(litert - device).max() <= 1
    assert np.mean(litert != device) < 0.02


def test_a_model_that_the_stand_in_refuses(elsewhere, tmp_path):
    model = schema().ModelT.InitFromObj(schema().Model.GetRootAsModel(tiny_edge(), 0))
    model.operatorCodes[0].version = 99
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    (tmp_path / "future.tflite").write_bytes(bytes(builder.Output()))
    code = """
import sys
import numpy as np
from pathlib import Path
from firmware_export.host import run_device
from hybrid.cascade import DeviceProgram, Stage
from hybrid.errors import UnsupportedOpError
try:
    stage = Stage(flatbuffer=Path(sys.argv[1]).read_bytes(), router=None)
    run_device(DeviceProgram(stages=(stage,)), np.zeros((1, 8, 8, 1), np.int8))
except UnsupportedOpError as exc:
    print(exc)
"""
    said = elsewhere("-c", code, tmp_path / "future.tflite").stdout
    assert said.startswith("model: refused by LiteRT's reference kernels: ")
    assert "version '99'" in said


def test_a_continuation_is_bridged_the_same(elsewhere, tmp_path):
    (tmp_path / "second.tflite").write_bytes(tiny_continuation())
    code = """
import sys
from pathlib import Path
from hybrid.flatbuffers import Graph, continuing
from hybrid.artifacts import Affine
graph = Graph(Path(sys.argv[1]).read_bytes())
graph.quantize_input(Affine(scale=0.5, zero_point=3))
Path(sys.argv[2]).write_bytes(graph.finish())
"""
    elsewhere("-c", code, tmp_path / "second.tflite", tmp_path / "bridged.tflite")
    here = Graph(tiny_continuation())
    here.quantize_input(Affine(scale=0.5, zero_point=3))
    assert read_graph((tmp_path / "bridged.tflite").read_bytes()) == read_graph(here.finish())


@pytest.fixture(scope="module")
def foreign(elsewhere, tmp_path_factory):
    """A bundle that was made elsewhere."""
    folder = tmp_path_factory.mktemp("foreign") / "bundle"
    code = """
import sys
from pathlib import Path
import tiny_edge
from firmware_export.bundle import write
tiny_edge.tiny_edge = lambda: Path("tiny.tflite").read_bytes()
write(tiny_edge.good_bundle(), Path(sys.argv[1]))
"""
    elsewhere("-c", code, folder)
    return folder


def test_a_bundle_from_elsewhere_says_so_in_every_file_that_claims_exactness(foreign):
    bundle = read(foreign)
    manifest, memory = bundle.manifest, bundle.manifest["memory"]
    assert manifest["golden"] == {"engine": "litert-reference"}
    assert memory["arena_source"] == "estimated"
    assert memory["measured_arena_bytes"] == memory["least_arena_bytes"] == 4096
    assert memory["arena_bytes"] == 4512  # 4,096 and a tenth is 4,505.6, up to a multiple of 16
    text = {path: content.decode() for path, content in bundle.files.items() if path.startswith("firmware/")}
    assert "4096 bytes are estimated, not measured" in text["firmware/hybrid_classify.h"]
    assert "answers of LiteRT's reference kernels" in text["firmware/hybrid_golden.h"]
    assert "so the arena is **estimated**" in text["firmware/README.md"]
    assert "export the run again on Linux, which makes it exact" in text["firmware/README.md"]


def test_a_bundle_from_here_claims_what_was_measured():
    manifest = good_bundle().manifest
    assert manifest["golden"] == {"engine": "tflite-micro"}
    assert manifest["memory"]["arena_source"] == "measured"
    text = b"".join(content for path, content in good_bundle().files.items() if path.startswith("firmware/")).decode()
    assert "estimated" not in text
    assert "LiteRT" not in text


def test_a_bundle_from_elsewhere_is_verified_here(foreign):
    found = verify(foreign, SILENT)
    assert found.engine == "tflite-micro"
    assert found.golden_examples == 5
    assert found.least_arena_bytes <= found.arena_bytes == 4512


def test_a_bundle_from_here_is_verified_elsewhere(elsewhere, tmp_path):
    write(good_bundle(), tmp_path / "bundle")
    said = " ".join(elsewhere("-m", "hybrid.cli", "verify", tmp_path / "bundle").stdout.split())
    assert "what the arena needs cannot be measured without TFLite Micro" in said
    assert "5 golden examples, all exact by LiteRT's reference kernels." in said


def resealed(bundle, folder, golden=None, arena_bytes=None):
    """Write `bundle` with other golden vectors or another arena, and a manifest that agrees with its files."""
    files, manifest = dict(bundle.files), bundle.manifest
    if golden is not None:
        files["golden/golden.json"] = canonical_json(golden)
    if arena_bytes is not None:
        memory, header = manifest["memory"], "firmware/hybrid_classify.h"
        before, after = (b"#define HYBRID_ARENA_BYTES %d\n" % size for size in (memory["arena_bytes"], arena_bytes))
        files[header], memory["arena_bytes"] = files[header].replace(before, after), arena_bytes
    del files["manifest.json"]
    write(Bundle({**files, "manifest.json": canonical_json({**manifest, "files": file_entries(files)})}), folder)


def rounded_otherwise(bundle):
    """The golden vectors with one score changed by a step, and that score as it was."""
    golden = json.loads(bundle.files["golden/golden.json"])
    right = golden["router_score"][2]
    golden["router_score"][2] = right - 1 if right > -128 else right + 1
    return golden, right


def test_engines_that_differ_are_no_tampering(foreign, tmp_path):
    golden, right = rounded_otherwise(read(foreign))
    resealed(read(foreign), tmp_path / "bundle", golden)
    with pytest.raises(BundleError) as refused:
        verify(tmp_path / "bundle", SILENT)
    assert str(refused.value) == (
        f"golden/golden.json: router_score of example 2: LiteRT's reference kernels gave {golden['router_score'][2]} "
        f"where the bundle was made, TFLite Micro here {right}; the two may round differently, so this alone is no "
        "sign of damage: run hybrid export here to be sure"
    )


def test_engines_that_differ_elsewhere_exit_with_2_and_the_next_step(elsewhere, tmp_path):
    resealed(good_bundle(), tmp_path / "bundle", rounded_otherwise(good_bundle())[0])
    done = elsewhere("-m", "hybrid.cli", "verify", tmp_path / "bundle", check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: golden/golden.json: router_score of example 2: TFLite Micro gave ")
    assert done.stderr.endswith("run hybrid verify on Linux, with TFLite Micro, to be sure\n")


def test_the_same_engine_that_differs_is_damage_elsewhere_too(elsewhere, foreign, tmp_path):
    resealed(read(foreign), tmp_path / "bundle", rounded_otherwise(read(foreign))[0])
    done = elsewhere("-m", "hybrid.cli", "verify", tmp_path / "bundle", check=False)
    assert done.returncode == 2
    assert "export the bundle again or get an untouched copy" in done.stderr


def test_an_estimate_that_was_too_low_is_found_here(foreign, tmp_path):
    resealed(read(foreign), tmp_path / "bundle", arena_bytes=1024)
    with pytest.raises(BundleError, match=r"1024, estimated where TFLite Micro was missing; it needs \d+: run hybrid"):
        verify(tmp_path / "bundle", SILENT)
