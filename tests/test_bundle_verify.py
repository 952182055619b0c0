import json

import pytest
from tiny_edge import cascade, cascade_bundle, good_bundle, inputs, program

from firmware_export.bundle import Bundle, file_entries, sha256, write
from firmware_export.edge import canonical_json
from firmware_export.verify import AOT_EXAMPLES, ROUTER_EXAMPLES, verify
from hybrid.arena import least_arena_bytes
from hybrid.errors import BundleError
from hybrid.progress import SILENT, Silent
from hybrid.runtimes import ENGINE_TITLES, device_engine


@pytest.fixture
def folder(tmp_path):
    write(good_bundle(), tmp_path / "bundle")
    return tmp_path / "bundle"


def resealed(folder, changes, **manifest_changes):
    """Write the good bundle with changed files and a manifest whose digests agree with them."""
    files = {**good_bundle().files, **changes}
    manifest = {**good_bundle().manifest, **manifest_changes}
    del files["manifest.json"]
    manifest["files"] = file_entries(files)
    write(Bundle({**files, "manifest.json": canonical_json(manifest)}), folder)


def refused(folder, complaint):
    with pytest.raises(BundleError, match=complaint):
        verify(folder, SILENT)


class Listener(Silent):
    def __init__(self):
        self.heard = []

    def say(self, text):
        self.heard.append(text)


def test_a_good_bundle(folder):
    listener = Listener()
    found = verify(folder, listener)
    assert found.files == len(good_bundle().files) - 1
    assert found.golden_examples == 5
    assert found.ops == ("CONV_2D", "FULLY_CONNECTED", "MEAN")
    assert found.engine == device_engine()
    assert found.router_examples == ROUTER_EXAMPLES
    if device_engine() == "tflite-micro":
        assert found.least_arena_bytes == least_arena_bytes(program()) <= found.arena_bytes
        assert found.aot_examples == 5 + AOT_EXAMPLES
    assert len(listener.heard) == 6


def test_a_good_bundle_of_three_stages(tmp_path):
    write(cascade_bundle(), tmp_path / "bundle")
    listener = Listener()
    found = verify(tmp_path / "bundle", listener)
    assert found.golden_examples == 20
    assert found.aot_examples in (0, 20 + AOT_EXAMPLES)
    assert "the firmware registers exactly the 4 operators that the 3 nets use" in listener.heard
    if device_engine() == "tflite-micro":
        assert found.least_arena_bytes == least_arena_bytes(cascade()) <= found.arena_bytes


def test_without_a_compiler_the_router_is_not_compared_and_that_is_said(folder, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("CC", raising=False)
    listener = Listener()
    assert verify(folder, listener).router_examples == 0
    assert "no C compiler here: the router's C was not run" in listener.heard
    assert listener.heard[-1].startswith("the ahead-of-time engine was not compared: a C compiler")


@pytest.mark.parametrize(
    "path",
    sorted(
        good_bundle_path
        for good_bundle_path in (
            "firmware/hybrid_decide.c",
            "cloud/endpoint.toml",
            "edge.tflite",
            "golden/inputs.bin",
        )
    ),
)
def test_a_flipped_bit_anywhere(folder, path):
    content = bytearray((folder / path).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / path).write_bytes(content)
    refused(
        folder, f"{path}: expected SHA-256 {good_bundle().manifest['files'][path]['sha256']}, got {sha256(content)}"
    )


def test_a_cut_file(folder):
    path = folder / "edge.tflite"
    size = len(path.read_bytes())
    path.write_bytes(path.read_bytes()[:-1])
    refused(folder, f"edge.tflite: expected {size:,} bytes, got {size - 1:,}")


def test_a_missing_and_a_spare_file(folder):
    (folder / "firmware/hybrid_decide.c").unlink()
    refused(folder, "firmware/hybrid_decide.c: expected the file that the manifest lists, got no such file")
    write(good_bundle(), folder)
    (folder / "firmware/more.c").write_text("")
    refused(folder, "firmware/more.c: expected only files that the manifest lists, got a file more")


@pytest.mark.parametrize("text", ["", "{", "[]", '"x"', "\ud800".encode("utf-16", "surrogatepass").decode("latin1")])
def test_a_damaged_manifest(folder, text):
    (folder / "manifest.json").write_text(text, encoding="utf-8")
    refused(folder, r"manifest.json: expected (JSON|a JSON object), got ")


def test_no_manifest(folder):
    (folder / "manifest.json").unlink()
    refused(folder, "manifest.json: expected a manifest, got no such file")


def test_a_newer_version_is_refused_politely(folder):
    resealed(folder, {}, bundle_format_version=4, surprise="unknown to this reader")
    refused(folder, "bundle_format_version: expected 3, got 4; a newer hybrid wrote this bundle, read it with that one")


def test_an_older_version_is_refused_with_what_to_do(folder):
    resealed(folder, {}, bundle_format_version=2)
    refused(
        folder, "expected 3, got 2; an older hybrid wrote this bundle: export its run again with this one, or read it"
    )


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"bundle_format_version": 0}, "bundle_format_version"),
        ({"bundle_format_version": "3"}, "bundle_format_version"),
        ({"surprise": 1}, "top level: .*surprise"),
        ({"class_names": "abc"}, "class_names"),
        ({"chosen": {"operating_point": "x", "threshold": 129}}, "chosen.threshold"),
        ({"models": {}}, "models"),
        ({"data": {"digest": "short", "value_range": [0, 255]}}, "data.digest"),
    ],
)
def test_a_manifest_of_another_form(folder, changes, where):
    resealed(folder, {}, **changes)
    refused(folder, f"manifest.json: expected a manifest of the schema, got {where}")


def test_a_manifest_without_an_entry(folder):
    manifest = good_bundle().manifest
    del manifest["payload"]
    (folder / "manifest.json").write_bytes(canonical_json(manifest))
    refused(folder, "'payload' is a required property")


def test_a_golden_vector_that_the_model_does_not_give(folder):
    golden = json.loads(good_bundle().files["golden/golden.json"])
    right = golden["router_score"][3]
    golden["router_score"][3] = wrong = right - 1 if right > -128 else right + 1
    resealed(folder, {"golden/golden.json": canonical_json(golden)})
    refused(folder, f"router_score of example 3 as {ENGINE_TITLES[device_engine()]} answers: {right}, got {wrong}")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"edge_class": [9] * 5}, "expected edge_class"),
        ({"edge_class": [0]}, "answers to 5 examples"),
        ({"inputs": {"shape": [5, 8, 8, 2]}}, "golden vectors for golden/inputs.bin, got ValueError"),
        ({"inputs": 5}, "golden vectors"),
        ({"stage": [0, 0, 0, 0, 1]}, "stage of example 4"),
        ({"logits": None}, "golden vectors"),
        ({"logits": [[1], [2], [3], [4], [5]]}, "logits of example 0"),
    ],
)
def test_golden_vectors_of_another_form(folder, change, complaint):
    golden = json.loads(good_bundle().files["golden/golden.json"])
    resealed(folder, {"golden/golden.json": canonical_json({**golden, **change})})
    refused(folder, complaint)


def edited(path, before, after):
    content = good_bundle().files[path]
    assert before in content
    return {path: content.replace(before, after, 1)}


def test_a_resolver_that_lacks_an_operator(folder):
    resealed(folder, edited("firmware/hybrid_classify.cc", b"resolver.AddMean()", b"resolver.AddSum()"))
    refused(folder, r"hybrid_classify.cc: expected registrations .*'AddMean'.*, got .*'AddSum'")


def test_operators_that_the_manifest_invents(folder):
    models = {"edge": {**good_bundle().manifest["models"]["edge"], "ops": ["CONV_2D"]}}
    resealed(folder, {}, models=models)
    refused(folder, r"manifest.json: expected models.edge.ops .*'MEAN'.*, got \['CONV_2D'\]")


@pytest.mark.parametrize(("key", "other"), [("look_below", 3), ("reads", "trunk"), ("sha256", "0" * 64)])
def test_a_manifest_that_differs_from_the_program(folder, key, other):
    models = {"edge": {**good_bundle().manifest["models"]["edge"], key: other}}
    resealed(folder, {}, models=models)
    refused(folder, rf"manifest.json: expected models.edge.{key} .*, got {other}")


def test_a_router_that_differs_by_one_weight(folder):
    values = json.loads(good_bundle().files["program.json"])
    weights = values["stages"][0]["router"]["weights"]
    weights[4][0] = -weights[4][0]
    resealed(folder, {"program.json": canonical_json(values)})
    refused(folder, r"hybrid_router.c: expected edge scores -?\d+ as program.json does, got -?\d+")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"stages": []}, "ValueError"),
        ({"stages": [{}]}, "KeyError: 'mix'"),
        ({}, "KeyError: 'stages'"),
    ],
)
def test_a_program_of_another_form(folder, change, complaint):
    resealed(folder, {"program.json": canonical_json(change)})
    refused(folder, f"program.json: expected routers and mixes of the nets beside it, got .*{complaint}")


def test_models_with_a_gap(folder):
    models = good_bundle().manifest["models"]
    resealed(folder, {}, models={**models, "look_2": models["edge"]})
    refused(folder, r"manifest.json: expected models \['edge', 'look_1'\], got \['edge', 'look_2'\]")
    resealed(folder, {}, models={**models, "look_1": models["edge"]})
    refused(folder, "look_1.tflite: expected a stage's flatbuffer, got no such file")


def test_a_digest_of_another_program(folder):
    resealed(folder, {}, program={"file": "program.json", "digest": "0" * 64})
    refused(folder, f"manifest.json: expected program.digest {program().digest}, got {'0' * 64}")


def test_an_array_of_another_model(folder):
    resealed(folder, edited("firmware/hybrid_model_data.cc", b"0x54, 0x46, 0x4c, 0x33", b"0x54, 0x46, 0x4c, 0x34"))
    refused(folder, "hybrid_model_data.cc: expected the bytes of edge.tflite")


@pytest.mark.skipif(device_engine() != "tflite-micro", reason="tflite-micro is missing")
def test_an_arena_below_the_least_that_works(folder):
    least, entry = least_arena_bytes(program()), good_bundle().manifest["memory"]
    line = b"HYBRID_ARENA_BYTES %d\n"
    small = edited("firmware/hybrid_classify.h", line % entry["arena_bytes"], line % (least - 1))
    resealed(folder, small)
    refused(folder, f"hybrid_classify.h: expected HYBRID_ARENA_BYTES {entry['arena_bytes']}, got {least - 1}")
    resealed(folder, small, memory={**entry, "arena_bytes": least - 1})
    refused(folder, f"expected HYBRID_ARENA_BYTES of at least {least}, got {least - 1}")


def test_an_arena_without_margin_is_enough(tmp_path):
    from firmware_export.edge import build_edge_bundle

    write(build_edge_bundle(inputs(arena_margin=0.0)), tmp_path / "bundle")
    assert verify(tmp_path / "bundle", SILENT).golden_examples == 5
