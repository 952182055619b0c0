"""The ahead-of-time engine in a bundle: chosen at build time, one arena, the same bits; and nets that it refuses."""

import re
import subprocess
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from tiny_edge import DEVICE, cascade, cascade_bundle, good_bundle, inputs, pixels, prelu_program, program, sources

from firmware_export.answers import differences, expected_answers, host_answers
from firmware_export.aot import aot_engine, measured
from firmware_export.bundle import Bundle, file_entries, write
from firmware_export.contents import contract_of
from firmware_export.edge import build_edge_bundle, canonical_json
from firmware_export.emulate import programs
from firmware_export.engine.compile import compile_model
from firmware_export.host import C_FLAGS, CXX_FLAGS, SANITIZERS, c_compiler, has_c_compiler
from firmware_export.tflm import PLAIN_UNITS
from firmware_export.verify import verify
from hybrid.errors import BudgetError, BundleError, UnsupportedOpError
from hybrid.progress import SILENT
from hybrid.runtimes import device_engine

pytestmark = pytest.mark.skipif(
    device_engine() != "tflite-micro" or not has_c_compiler(), reason="needs tflite-micro and a C compiler"
)
BUNDLES = {"one net": (good_bundle, program), "three nets": (cascade_bundle, cascade)}
EVERY_BUNDLE = pytest.mark.parametrize("bundle", BUNDLES)


def aot_entry(bundle):
    return bundle.manifest["engines"]["aot"]


def unpacked(bundle, folder):
    for name, text in sources(bundle).items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(text)
    return folder


def units_of(folder):
    return [*PLAIN_UNITS, *sorted(f"aot/{path.name}" for path in (folder / "aot").glob("*.c"))]


def ran(folder, main, *flags):
    """Build a bundle's C by this engine with a main program, and run it: exit code."""
    (folder / "main.c").write_text(main)
    command = [c_compiler(), *C_FLAGS, *flags, "-I.", "-Iaot", "-o", "program", "main.c", *units_of(folder)]
    built = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return subprocess.run([folder / "program"], capture_output=True, check=False).returncode


# The same bits


@EVERY_BUNDLE
def test_exact_and_clean_under_sanitizers(bundle):
    made, given = (make() for make in BUNDLES[bundle])
    contract, x = contract_of(made, given), pixels(300, seed=5)
    expected = expected_answers(contract, x)
    got = host_answers(contract, sources(made), x, flags=("-O0", *SANITIZERS))
    assert list(differences(expected, got)) == []
    assert len(set(expected.stage)) == len(given.stages)  # all nets ran, after one another in one arena
    assert set(expected.kept) == {0, 1}


def test_what_differs_is_named():
    contract = contract_of(good_bundle(), program())
    expected = expected_answers(contract, pixels(2))
    got = replace(expected, score=expected.score + np.array([0, 1]))
    assert list(differences(expected, got)) == [
        f"example 1: score must be {expected.score[1]}, is {expected.score[1] + 1}"
    ]
    got = replace(expected, payloads=(expected.payloads[0][:-1], expected.payloads[1]))
    assert [text.split(" must")[0] for text in differences(expected, got)] == ["example 0: payload"]


SELFTEST = """
#include "hybrid_selftest.h"
int main(void) {
  int32_t failed = 77;
  const hybrid_status_t status = hybrid_selftest(&failed);
  return status == HYBRID_OK ? 0 : status == HYBRID_ERROR_SELFTEST ? 100 + (int)failed : 1;
}
"""


@EVERY_BUNDLE
def test_the_self_test_holds_for_this_engine_too(bundle, tmp_path):
    folder = unpacked(BUNDLES[bundle][0](), tmp_path)
    assert ran(folder, SELFTEST, "hybrid_selftest.c") == 0
    golden = (folder / "hybrid_golden.h").read_text()
    scores = re.search(r"hybrid_golden_scores\[.*?\] = \{\s*(.*?)\s*\}", golden, re.DOTALL)
    values = [int(value) for value in scores[1].rstrip(",").split(",")]
    values[3] += 1 if values[3] < 0 else -1
    (folder / "hybrid_golden.h").write_text(golden.replace(scores[1], ", ".join(map(str, values)) + ","))
    assert ran(folder, SELFTEST, "hybrid_selftest.c") == 103


API = """
#include <string.h>
#include "hybrid_aot_arena.h"
#include "hybrid_classify.h"
#define EXPECT(condition) if (!(condition)) { return __LINE__; }
static uint8_t pixels[HYBRID_INPUT_BYTES];
static int8_t shifted[HYBRID_INPUT_BYTES];
int main(void) {
  hybrid_result_t first, second;
  int8_t logits[HYBRID_NUM_CLASSES];
  for (int i = 0; i < HYBRID_INPUT_BYTES; ++i) {
    pixels[i] = (uint8_t)(i * 37);
    shifted[i] = (int8_t)((int)pixels[i] - 128);
  }
  EXPECT(hybrid_arena_used_bytes() == 0u)
  EXPECT(hybrid_classify(pixels, &first) == HYBRID_ERROR_NOT_INITIALISED)
  EXPECT(hybrid_init() == HYBRID_OK && hybrid_init() == HYBRID_OK)
  EXPECT(hybrid_arena_used_bytes() == HYBRID_AOT_ARENA_BYTES)
  EXPECT(hybrid_classify(NULL, &first) == HYBRID_ERROR_ARGUMENT)
  EXPECT(hybrid_classify_int8(NULL, &first) == HYBRID_ERROR_ARGUMENT)
  EXPECT(hybrid_classify(pixels, NULL) == HYBRID_ERROR_ARGUMENT)
  EXPECT(hybrid_classify(pixels, &first) == HYBRID_OK)
  memcpy(logits, first.logits, sizeof(logits));
  EXPECT(hybrid_classify_int8(shifted, &second) == HYBRID_OK)
  EXPECT(memcmp(logits, second.logits, sizeof(logits)) == 0 && first.score == second.score)
  EXPECT(first.decision != HYBRID_LOOK_AGAIN && first.stage == second.stage)
  EXPECT(hybrid_set_threshold(HYBRID_THRESHOLD_MAX) == HYBRID_OK)
  EXPECT(hybrid_classify(pixels, &second) == HYBRID_OK && second.decision == HYBRID_QUERY)
  EXPECT(hybrid_set_threshold(HYBRID_THRESHOLD_MIN) == HYBRID_OK)
  EXPECT(hybrid_classify(pixels, &second) == HYBRID_OK && second.decision == HYBRID_KEEP)
  return 0;
}
"""


@EVERY_BUNDLE
def test_the_interface_is_that_of_tflite_micro_s_glue(bundle, tmp_path):
    assert ran(unpacked(BUNDLES[bundle][0](), tmp_path), API, *SANITIZERS) == 0


def test_every_header_stands_alone_in_c_and_cxx(tmp_path):
    folder = unpacked(cascade_bundle(), tmp_path)
    headers = sorted(path.name for path in (folder / "aot").glob("*.h"))
    for order in (headers, headers[::-1]):
        (folder / "alone.c").write_text("".join(f'#include "{name}"\n' for name in order) + "extern int unused;\n")
        for command in ([c_compiler(), *C_FLAGS, "-pedantic"], ["g++", *CXX_FLAGS, "-x", "c++"]):
            full = [*command, "-fsyntax-only", "-I.", "-Iaot", "alone.c"]
            assert subprocess.run(full, cwd=folder, check=False).returncode == 0


# One arena, and what it all takes


def test_all_nets_share_one_arena_as_large_as_the_largest_needs(tmp_path):
    entry = aot_entry(cascade_bundle())
    assert entry["arena_bytes"] == max(net["arena_bytes"] for net in entry["nets"].values())
    assert entry["constant_bytes"] == sum(net["constant_bytes"] for net in entry["nets"].values())
    folder = unpacked(cascade_bundle(), tmp_path)
    flags = [*C_FLAGS, "-O1", "-I.", "-Iaot", "-c", *(unit for unit in units_of(folder) if "/" in unit)]
    subprocess.run([c_compiler(), *flags], cwd=folder, check=True)
    listed = subprocess.run(["nm", "-S", *(f.name for f in folder.glob("*.o"))], cwd=folder, capture_output=True)
    found = re.findall(r"^\S+ (\S+) [bB] (\w+)$", listed.stdout.decode(), re.MULTILINE)
    variables = {name: int(size, 16) for size, name in found}
    assert variables.keys() == {"hybrid_aot_arena", "example", "ready"}
    assert variables["hybrid_aot_arena"] == entry["arena_bytes"]


def test_the_arena_is_below_tflite_micro_s():
    for bundle in (good_bundle(), cascade_bundle()):
        assert aot_entry(bundle)["arena_bytes"] <= 0.75 * bundle.manifest["engines"]["tflm"]["arena_bytes"]


def test_both_engines_are_told_with_their_sizes():
    bundle = good_bundle()
    entry, readme = aot_entry(bundle), bundle.files["firmware/README.md"].decode()
    assert f"| SRAM, arena | {entry['arena_bytes']:,} bytes | " in readme
    assert f"| flash, constants | {entry['constant_bytes']:,} bytes | " in readme
    assert f"#define HYBRID_AOT_ARENA_BYTES {entry['arena_bytes']}\n" in sources()["aot/hybrid_aot_arena.h"].decode()
    assert [layer["kind"] for layer in entry["nets"]["edge"]["layers"]] == ["CONV_2D", "MEAN", "FULLY_CONNECTED"]
    assert [layer["macs"] for layer in entry["nets"]["edge"]["layers"]] == [3 * 3 * 4 * 9, 0, 4 * 3]


@pytest.mark.skipif(programs.missing() is not None, reason=str(programs.missing()))
def test_code_is_counted_for_the_device_s_core():
    engine = aot_engine(program(), DEVICE, "both")
    assert engine.code_bytes is None
    small, large = (measured(engine, replace(DEVICE, core=core)).code_bytes for core in ("Cortex-M0+", "Cortex-M4F"))
    assert 1000 < small < large < 16 * 1024
    assert measured(engine, replace(DEVICE, core="Xtensa LX7")).code_bytes is None


def with_flash(flash_bytes):
    """A device on which so much is left for the constants of the three nets."""
    tables = sum(stage.router.table_bytes for stage in cascade().stages)
    return replace(DEVICE, flash_bytes=DEVICE.reserved_flash_bytes + tables + flash_bytes)


def sizes(weights):
    """Constants of each of the three nets on its own."""
    return [compile_model(stage.flatbuffer, weights=weights).flash_bytes for stage in cascade().stages]


def widths(flash_bytes):
    """How weights stand in flash, by net."""
    engine = aot_engine(cascade(), with_flash(flash_bytes), "both")
    assert engine.constant_bytes <= flash_bytes
    return [{layer.weights for layer in net.layers if layer.weights} for net in engine.nets.values()]


def test_short_flash_unpacks_the_nets_that_run_most():
    small, wide = sizes("int8"), sizes("int16")
    assert widths(sum(wide)) == [{"int16"}, {"int16"}, {"int16"}]
    assert widths(wide[0] + small[1] + small[2]) == [{"int16"}, {"int8"}, {"int8"}]
    assert widths(sum(small)) == [{"int8"}, {"int8"}, {"int8"}]


def test_nets_that_do_not_fit_are_left_to_tflite_micro():
    short = with_flash(sum(sizes("int8")) - 1)
    assert aot_engine(cascade(), short, "auto").startswith("flash_bytes: needs ")
    with pytest.raises(BudgetError, match="flash_bytes: needs"):
        aot_engine(cascade(), short, "both")


# Nets that the engine does not take


@cache
def refused_bundle():
    return build_edge_bundle(inputs(program=prelu_program()))


def test_an_operator_beyond_the_engine_leaves_tflite_micro_alone_and_says_so(tmp_path):
    bundle = refused_bundle()
    reason = aot_entry(bundle)["refused"]
    assert "PRELU" in reason
    assert not [path for path in bundle.files if path.startswith("firmware/aot")]
    assert f"There is no ahead-of-time engine in this bundle: {reason}." in bundle.files["firmware/README.md"].decode()
    write(bundle, tmp_path / "bundle")
    heard = []
    assert verify(tmp_path / "bundle", Listening(heard)).aot_examples == 0
    assert heard[-1] == f"no ahead-of-time engine in this bundle: {reason}"


class Listening(type(SILENT)):
    def __init__(self, heard):
        self.say = heard.append


def test_what_was_asked_for_decides():
    with pytest.raises(UnsupportedOpError, match="PRELU"):
        aot_engine(prelu_program(), DEVICE, "both")
    assert aot_engine(program(), DEVICE, "tflm") == "not asked for, export.engines is tflm"
    assert not isinstance(aot_engine(program(), DEVICE, "both"), str)


def resealed(folder, changes, **entries):
    """Write the good bundle with changed files and entries of the manifest, all digests right."""
    files = {**good_bundle().files, **changes}
    del files["manifest.json"]
    manifest = {**good_bundle().manifest, **entries, "files": file_entries(files)}
    write(Bundle({**files, "manifest.json": canonical_json(manifest)}), folder)
    return folder


def test_verify_finds_a_weight_of_this_engine_that_was_changed(tmp_path):
    path = "firmware/aot/hybrid_aot_edge_weights.c"
    text = good_bundle().files[path].decode()
    number = re.search(r"-?\d{9,}", text)  # four of the first layer's weights
    changed = text[: number.start()] + str(int(number[0]) // 2 + 3) + text[number.end() :]
    folder = resealed(tmp_path / "bundle", {path: changed.encode()})
    with pytest.raises(BundleError, match=r"firmware/aot: the ahead-of-time engine differs from TFLite Micro: example"):
        verify(folder, SILENT)


def test_verify_holds_the_sources_against_the_manifest(tmp_path):
    path, size = "firmware/aot/hybrid_aot_arena.h", aot_entry(good_bundle())["arena_bytes"]
    text = good_bundle().files[path].replace(b"ARENA_BYTES %d\n" % size, b"ARENA_BYTES %d\n" % (size - 4))
    with pytest.raises(
        BundleError, match=rf"hybrid_aot_arena.h: expected HYBRID_AOT_ARENA_BYTES {size}, got {size - 4}"
    ):
        verify(resealed(tmp_path / "bundle", {path: text}), SILENT)
    engines = {**good_bundle().manifest["engines"], "aot": {"refused": "who knows"}}
    with pytest.raises(
        BundleError, match=r"hybrid_aot_arena.c: expected no ahead-of-time engine, as the manifest says"
    ):
        verify(resealed(tmp_path / "bundle", {}, engines=engines), SILENT)


# CMake


def configured(folder, *options):
    command = ["cmake", "-S", ".", "-B", "build", "-DCMAKE_C_FLAGS=-Werror", *options]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_cmake_builds_this_engine_without_a_c_plus_plus_compiler(tmp_path):
    folder = unpacked(cascade_bundle(), tmp_path)
    assert configured(folder).returncode == 0
    built = subprocess.run(["cmake", "--build", "build"], cwd=folder, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    members = subprocess.run(["ar", "t", "build/libhybrid_edge.a"], cwd=folder, capture_output=True, check=True).stdout
    names = {name.split(b".")[0] for name in members.split()}
    assert {b"hybrid_aot_classify", b"hybrid_aot_look_2", b"hybrid_aot_kernels", b"hybrid_selftest"} <= names
    assert b"hybrid_classify" not in names
    assert "CMAKE_CXX_COMPILER" not in (folder / "build/CMakeCache.txt").read_text()


@pytest.mark.parametrize(
    ("option", "complaint"),
    [
        ("-DHYBRID_ENGINE=tflm", "HYBRID_ENGINE=tflm needs HYBRID_TFLM_INCLUDE_DIRS"),
        ("-DHYBRID_ENGINE=fast", "HYBRID_ENGINE: got fast, allowed aot, tflm, auto"),
    ],
)
def test_cmake_refuses_what_it_cannot_build(tmp_path, option, complaint):
    done = configured(unpacked(good_bundle(), tmp_path), option)
    assert done.returncode != 0
    assert complaint in done.stderr


def test_cmake_of_a_bundle_without_this_engine(tmp_path):
    folder = unpacked(refused_bundle(), tmp_path)
    assert configured(folder).returncode == 0
    assert subprocess.run(["cmake", "--build", "build"], cwd=folder, capture_output=True, check=False).returncode == 0
    assert [path.name for path in (folder / "build").glob("lib*")] == ["libhybrid_decide.a"]
