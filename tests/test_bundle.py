import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_edge import good_bundle, inputs, pixels, tiny_edge

from firmware_export.bundle import Bundle, read, sha256, write
from firmware_export.edge import build_edge_bundle
from firmware_export.host import run_tflm
from firmware_export.tflm import SOURCES
from hybrid.errors import BundleError


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def small(text: bytes) -> Bundle:
    return Bundle({"manifest.json": b"{}", "a/b.txt": text})


def test_what_is_in_it():
    assert set(good_bundle().files) == {
        *(f"firmware/{name}" for name in SOURCES),
        "cloud/endpoint.toml",
        "golden/golden.json",
        "golden/inputs.bin",
        "manifest.json",
        "edge.tflite",
    }


def test_manifest():
    manifest = good_bundle().manifest
    assert manifest["bundle_format_version"] == 1
    assert manifest["chosen"] == {"operating_point": "balanced", "threshold": 7}
    assert [point["threshold"] for point in manifest["operating_points"]] == [-128, 7, 128]
    assert manifest["models"]["edge"]["sha256"] == sha256(tiny_edge())
    assert manifest["models"]["edge"]["ops"] == ["CONV_2D", "FULLY_CONNECTED", "MEAN"]
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
    answers = run_tflm(tiny_edge(), stored)
    assert answers["logits"].tolist() == golden["logits"]
    assert answers["router_score"].tolist() == golden["router_score"]
    assert answers["logits"].argmax(1).tolist() == golden["edge_class"]


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
from hybrid.errors import BundleError
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
