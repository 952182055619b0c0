import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_edge import cascade, cascade_bundle, good_bundle, inputs, pixels, program

from firmware_export.bundle import Bundle, read, sha256, write
from firmware_export.edge import build_edge_bundle, golden_rows
from firmware_export.host import run_device
from firmware_export.tflm import SOURCES
from hybrid.errors import BundleError, SpecError

NET = (".c", ".h", "_weights.c", "_weights.h")
AOT = ("arena.c", "arena.h", "classify.c", *(f"edge{name}" for name in NET), "kernels.c", "kernels.h")


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def small(text: bytes) -> Bundle:
    return Bundle({"manifest.json": b"{}", "a/b.txt": text})


def test_what_is_in_it():
    assert set(good_bundle().files) == {
        *(f"firmware/{name}" for name in SOURCES),
        *(f"firmware/aot/hybrid_aot_{name}" for name in AOT),
        "cloud/endpoint.toml",
        "golden/golden.json",
        "golden/inputs.bin",
        "manifest.json",
        "edge.tflite",
        "program.json",
    }
    assert set(cascade_bundle().files) - set(good_bundle().files) == {
        *("look_1.tflite", "look_2.tflite"),
        *(f"firmware/aot/hybrid_aot_{look}{name}" for look in ("look_1", "look_2") for name in NET),
    }


def test_manifest():
    manifest = good_bundle().manifest
    assert manifest["bundle_format_version"] == 3
    assert manifest["chosen"] == {"operating_point": "balanced", "threshold": 7}
    assert [point["threshold"] for point in manifest["operating_points"]] == [-128, 7, 128]
    flatbuffer = program().stages[0].flatbuffer
    assert manifest["program"] == {"file": "program.json", "digest": sha256(flatbuffer)}
    assert manifest["models"] == {
        "edge": {
            "file": "edge.tflite",
            "sha256": sha256(flatbuffer),
            "flash_bytes": len(flatbuffer),
            "weight_bytes": 36 + 16 + 12 + 12 + 8,  # two layers' int8 weights and int32 biases, axes of the mean
            "macs": 3 * 3 * 4 * 9 + 4 * 3,
            "ops": ["CONV_2D", "FULLY_CONNECTED", "MEAN"],
            "reads": "image",
            "look_below": -128,
            "router": {
                "kind": "learned",
                "parameters": 5 + 1,  # four features, one confidence; a bias
                "macs": 5,
                "flash_bytes": 4 * 5 + 4 + 2 * 256 + 4 * 255,  # weights, bias, exponentials, cuts
            },
        }
    }
    assert manifest["memory"]["flash_bytes"] == len(flatbuffer) + 4 * 5 + 4 + 2 * 256 + 4 * 255
    assert manifest["input"]["shape"] == [1, 8, 8, 1]
    assert manifest["input"]["zero_point"] == 0
    assert manifest["spec"] == {"seed": 3, "train": {"epochs": 2}}
    others = {path: entry for path, entry in good_bundle().files.items() if path != "manifest.json"}
    assert manifest["files"] == {path: {"sha256": sha256(text), "bytes": len(text)} for path, text in others.items()}


def test_manifest_is_deterministic_text():
    text = good_bundle().files["manifest.json"].decode()
    assert text == json.dumps(json.loads(text), indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    assert build_edge_bundle(inputs()).digest == good_bundle().digest
    assert build_edge_bundle(inputs(spec={"seed": 4})).digest != good_bundle().digest


def test_golden_vectors_are_tflite_micros():
    golden = json.loads(good_bundle().files["golden/golden.json"])
    stored = np.frombuffer(good_bundle().files["golden/inputs.bin"], np.int8).reshape(golden["inputs"]["shape"])
    assert np.array_equal(stored.astype(int), pixels(5).astype(int) - 128)
    assert stored[0, 0, :2, 0].tolist() == [-128, 127]  # the darkest and the brightest pixel
    answers = run_device(program(), stored)
    assert answers.logits.tolist() == golden["logits"]
    assert answers.score.tolist() == golden["router_score"]
    assert answers.logits.argmax(1).tolist() == golden["edge_class"]
    assert golden["stage"] == [0] * 5


def test_manifest_of_a_cascade():
    manifest = cascade_bundle().manifest
    models = [manifest["models"][name] for name in ("edge", "look_1", "look_2")]
    assert [(model["reads"], model["look_below"]) for model in models] == [
        ("image", 20),
        ("trunk", -20),
        ("image", -128),
    ]
    assert [model["router"]["parameters"] for model in models] == [4 + 2, 9 + 2, 11 + 2]  # all features so far
    assert manifest["program"]["digest"] == sha256(b"".join(stage.flatbuffer for stage in cascade().stages))
    assert set(json.loads(cascade_bundle().files["golden/golden.json"])["stage"]) == {0, 1, 2}


def test_golden_examples_must_reach_every_stage():
    easy = pixels(20)[np.array(json.loads(cascade_bundle().files["golden/golden.json"])["stage"]) == 0]
    with pytest.raises(SpecError, match=rf"look_1 is the last stage of none of {len(easy)} examples"):
        build_edge_bundle(inputs(program=cascade(), golden_pixels=easy))


def test_golden_rows_cover_scores_and_stages():
    score, stage = np.arange(100)[::-1], np.repeat([0, 1, 2], [98, 1, 1])
    rows = golden_rows(score, stage, 3)
    assert score[rows[:3]].tolist() == [0, 50, 99]  # the lowest, the middle and the highest
    assert rows[3:].tolist() == [98]  # stage 2 has the lowest score already; stage 1 is added
    assert golden_rows(score[:2], stage[:2], 5).tolist() == [1, 0]


def test_round_trip(tmp_path):
    write(good_bundle(), tmp_path / "deep" / "bundle")
    assert read(tmp_path / "deep" / "bundle") == good_bundle()
    assert os.listdir(tmp_path / "deep") == ["bundle"]


def test_a_newer_bundle_replaces_the_whole_older_one(tmp_path):
    write(Bundle({"manifest.json": b"{}", "old.txt": b""}), tmp_path / "bundle")
    write(small(b"new"), tmp_path / "bundle")
    assert content(tmp_path / "bundle") == {"manifest.json": b"{}", "a/b.txt": b"new"}
    assert os.listdir(tmp_path) == ["bundle"]


def test_files_of_others_are_not_replaced(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(BundleError, match=r"holds files but no manifest.json"):
        write(small(b""), tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(BundleError, match="is a file; choose another folder"):
        write(small(b""), tmp_path / "file")
    assert sorted(os.listdir(tmp_path)) == ["file", "thesis.txt"]


FULL_DISK = """
import resource, sys
from pathlib import Path
from firmware_export.bundle import Bundle, write
from hybrid.errors import BundleError, SpecError
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    write(Bundle({"manifest.json": b"{}", "a/b.txt": b"new", "big": bytes(10_000)}), Path(sys.argv[1]))
except BundleError as exc:
    print(exc)
"""


def test_interrupted_write_leaves_the_older_bundle(tmp_path):
    """The operating system refuses a file above 4,096 bytes, as a full disk would."""
    write(small(b"old"), tmp_path / "bundle")
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path / "bundle")]
    root = Path(__file__).parent.parent
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    assert "bundle: cannot be written (File too large); free space" in done.stdout
    assert content(tmp_path / "bundle") == {"manifest.json": b"{}", "a/b.txt": b"old"}
    assert os.listdir(tmp_path) == ["bundle"]


def test_parent_that_takes_no_folder(tmp_path):
    with pytest.raises(BundleError, match="cannot be written"):
        write(small(b""), Path("/proc/bundle"))
    (tmp_path / "file").write_text("")
    with pytest.raises(BundleError, match=r"cannot be written \(File exists\)"):
        write(small(b""), tmp_path / "file" / "bundle")


@pytest.mark.parametrize("path", ["../up", "/abs", "a/../b", "", ".", "a//b", "a\\b", "a/", "./a"])
def test_paths_that_could_leave_the_folder(path):
    with pytest.raises(BundleError, match="expected a plain relative path"):
        Bundle({"manifest.json": b"{}", path: b""})


def test_a_file_is_no_folder():
    with pytest.raises(BundleError, match="a is a file of this bundle"):
        Bundle({"a": b"", "a/b": b""})


def test_extra_files_take_no_name_of_the_bundle():
    with pytest.raises(BundleError, match=r"extra files edge.tflite, manifest.json have the names"):
        build_edge_bundle(inputs(extra={"edge.tflite": b"", "manifest.json": b"", "mine.txt": b""}))


def test_reading_what_is_no_folder(tmp_path):
    with pytest.raises(BundleError, match="got nothing"):
        read(tmp_path / "none")
    (tmp_path / "file").write_text("")
    with pytest.raises(BundleError, match="got a file"):
        read(tmp_path / "file")


def test_links_are_refused(tmp_path):
    write(small(b""), tmp_path / "bundle")
    (tmp_path / "bundle" / "link").symlink_to("/etc/hostname")
    with pytest.raises(BundleError, match="link: expected a regular file"):
        read(tmp_path / "bundle")


def test_files_cannot_be_changed():
    with pytest.raises(TypeError):
        good_bundle().files["manifest.json"] = b""
