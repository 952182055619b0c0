import os
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_edge import CLASS_NAMES, DEVICE, POINTS, cascade, cascade_bundle, firmware, inputs, point, program, sources

from firmware_export import tflm
from firmware_export.edge import build_edge_bundle
from firmware_export.host import C_FLAGS, CXX_FLAGS, c_compiler
from firmware_export.tflm import STATUSES, check_spare, render
from hybrid.artifacts import Footprint
from hybrid.cost import arena_bytes, program_flash_bytes
from hybrid.errors import BudgetError, BundleError, SpecError

TFLM_API = Path(__file__).parent / "tflm_api"
REAL_TFLM = os.environ.get("HYBRID_TFLM_DIR", "")
THIRD_PARTIES = ("third_party", "tensorflow/lite/micro/tools/make/downloads")


def folders_of(tflm_tree: Path) -> list[Path]:
    thirds = [tflm_tree / root / name for root in THIRD_PARTIES for name in ("flatbuffers/include", "gemmlowp", "ruy")]
    return [tflm_tree, *filter(Path.is_dir, thirds)]


@pytest.fixture(params=["one stage", "three stages"])
def folder(tmp_path, request):
    bundle = cascade_bundle() if request.param == "three stages" else None
    (tmp_path / "aot").mkdir()
    for name, text in sources(bundle).items():
        (tmp_path / name).write_bytes(text)
    return tmp_path


def compiled(folder, compiler, *arguments):
    path = shutil.which(compiler)
    if path is None:
        pytest.skip(f"no {compiler} here")
    done = subprocess.run([path, *arguments], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_plain_c_compiles_without_a_warning(folder):
    compiled(folder, c_compiler(), *C_FLAGS, "-pedantic", "-fsyntax-only", *tflm.PLAIN_UNITS, "hybrid_selftest.c")


@pytest.mark.parametrize("core", ["cortex-m0plus", "cortex-m7"])
def test_plain_c_compiles_for_a_microcontroller(folder, core):
    flags = (*C_FLAGS, "-pedantic", f"-mcpu={core}", "-mthumb", "-Os", "-fsyntax-only")
    compiled(folder, "arm-none-eabi-gcc", *flags, *tflm.PLAIN_UNITS, "hybrid_selftest.c")


def test_the_router_has_no_floating_point_and_takes_no_memory(folder):
    text = (folder / "hybrid_router.c").read_text()
    code = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
    assert not re.search(r"\b(float|double|malloc|free|printf)\b|\d\.\d", code)


@pytest.mark.parametrize("header", [name for name in tflm.SOURCES if name.endswith(".h") and "golden" not in name])
def test_each_header_stands_alone_in_c_and_cxx(folder, header):
    (folder / "alone.c").write_text(f'#include "{header}"\nextern int unused;\n')
    compiled(folder, c_compiler(), *C_FLAGS, "-fsyntax-only", "alone.c")
    compiled(folder, "g++", *CXX_FLAGS, "-fsyntax-only", "-x", "c++", "alone.c")


@pytest.mark.parametrize("tree", [TFLM_API, *([Path(REAL_TFLM)] if REAL_TFLM else [])], ids=lambda tree: tree.name)
def test_glue_compiles_without_a_warning(folder, tree):
    system = tree != TFLM_API  # warnings of the real headers are not ours
    places = [word for place in folders_of(tree) for word in ("-isystem" if system else "-I", str(place))]
    flags = (*CXX_FLAGS, "-fno-rtti", "-fno-exceptions", "-DTF_LITE_STATIC_MEMORY", "-fsyntax-only")
    compiled(folder, "g++", *flags, *places, "hybrid_classify.cc", "hybrid_model_data.cc")


def test_cmake_builds_the_plain_c_alone(folder):
    compiled(folder, "cmake", "-S", ".", "-B", "build")
    compiled(folder, "cmake", "--build", "build")
    assert (folder / "build" / "libhybrid_decide.a").is_file()


APPLICATION = """
cmake_minimum_required(VERSION 3.16)
project(application C CXX)
set(HYBRID_TFLM_INCLUDE_DIRS "{includes}")
add_subdirectory({firmware} firmware)
add_library(application STATIC main.c)
target_link_libraries(application hybrid_edge)
"""


def test_cmake_builds_the_edge_inside_an_application(folder, tmp_path_factory):
    application = tmp_path_factory.mktemp("application")
    (application / "CMakeLists.txt").write_text(APPLICATION.format(includes=TFLM_API, firmware=folder))
    (application / "main.c").write_text(
        '#include "hybrid_classify.h"\nint start(void) { return (int)hybrid_init(); }\n'
    )
    compiled(application, "cmake", "-S", ".", "-B", "build", "-DCMAKE_C_FLAGS=-Werror", "-DCMAKE_CXX_FLAGS=-Werror")
    compiled(application, "cmake", "--build", "build")
    members = subprocess.run(
        ["ar", "t", "build/firmware/libhybrid_edge.a"], cwd=application, capture_output=True, check=True
    )
    assert {b"hybrid_classify", b"hybrid_model_data", b"hybrid_selftest"} == {
        name.split(b".")[0] for name in members.stdout.split()
    }


def test_resolver_has_exactly_the_ops_each_with_its_own_check():
    glue = firmware("hybrid_classify.cc")
    checks = re.findall(r"if \(resolver\.(Add\w+)\(\) != kTfLiteOk\) return HYBRID_ERROR_OPERATOR;", glue)
    assert checks == ["AddConv2D", "AddFullyConnected", "AddMean"]
    assert "kOperatorCount = 3;" in glue


def test_arena_of_measured_bytes_and_margin():
    assert arena_bytes(1000, 0.1) == 1104  # 1100 up to the next multiple of 16
    assert arena_bytes(1600, 0.0) == 1600
    with pytest.raises(SpecError, match=r"got -0\.1, allowed 0 to 10"):
        arena_bytes(1000, -0.1)
    least = inputs().footprint.least_arena_bytes
    assert f"#define HYBRID_ARENA_BYTES {arena_bytes(least, 0.1)}\n" in firmware("hybrid_classify.h")


def test_statuses_come_from_one_table():
    header, code = firmware("hybrid_decide.h"), firmware("hybrid_decide.c")
    assert re.findall(r"HYBRID_(\w+) = (\d+), /\* ", header)[: len(STATUSES)] == [
        (name, str(index)) for index, (name, _) in enumerate(STATUSES)
    ]
    assert all(f'"{text}",' in code for _, text in STATUSES)


def test_header_names_version_and_spec_and_nothing_of_the_day():
    texts = [text for name, text in sources().items() if "/" not in name or name.endswith("classify.c")]
    banners = {text.split(b"hybrid-edge-cloud ")[1].split(b"\n")[0].rstrip(b" ->*/") for text in texts}
    assert len(banners) == 1
    assert re.fullmatch(rb"\S+, spec [0-9a-f]{64}, generated: do not edit", banners.pop())


def test_same_values_same_bytes():
    assert build_edge_bundle(inputs()).files == build_edge_bundle(inputs()).files


def test_missing_hole():
    with pytest.raises(SpecError, match=r"template hybrid_model_data.h.j2: 'model_sha256' is undefined"):
        render("hybrid_model_data.h", {"banner": "b"})


def test_spare_value():
    with pytest.raises(SpecError, match="no hole for colour"):
        check_spare({"banner": "b", "colour": "red"})


def test_model_array_is_the_model():
    array = re.findall(r"0x([0-9a-f]{2})", firmware("hybrid_model_data.cc"))
    assert bytes.fromhex("".join(array)) == program().stages[0].flatbuffer
    array = re.findall(r"0x([0-9a-f]{2})", firmware("hybrid_model_data.cc", cascade_bundle()))
    assert bytes.fromhex("".join(array)) == b"".join(stage.flatbuffer for stage in cascade().stages)


def test_firmware_of_one_stage_knows_no_others():
    for name in ("hybrid_router.c", "hybrid_router.h", "hybrid_classify.cc"):
        alone, three = firmware(name), firmware(name, cascade_bundle())
        assert not re.search("mix|trunk|LOOK_AGAIN|stage_logits", alone)
        assert re.search("mix|trunk|stage_logits", three)


def test_chosen_point_is_the_default():
    assert "#define HYBRID_POINT_DEFAULT HYBRID_POINT_BALANCED" in firmware("hybrid_decide.h")
    assert "static int threshold_in_force = 7;" in firmware("hybrid_decide.c")


def refused(**changes):
    return build_edge_bundle(inputs(**changes))


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"chosen": "balance"}, "unknown 'balance'; did you mean balanced"),
        ({"operating_points": (point("a b", 0, 0.5), point("a-b", 1, 0.5)), "chosen": "a-b"}, "not distinct"),
        ({"operating_points": (point("--", 0, 0.5),), "chosen": "--"}, "not distinct as C identifiers"),
        ({"operating_points": (point("x", 129, 0.5),), "chosen": "x"}, "threshold 129, allowed -128 to 128"),
        (
            {"operating_points": (replace(POINTS[0], accuracy=float("nan")),), "chosen": "edge-only"},
            "nan, allowed finite",
        ),
        ({"operating_points": (), "chosen": "x"}, "unknown 'x'"),
        ({"golden_pixels": np.zeros((0, 8, 8, 1), np.uint8)}, r"got uint8 \(0, 8, 8, 1\)"),
        ({"golden_pixels": np.zeros((1, 8, 8, 1), np.int8)}, "got int8"),
        ({"golden_pixels": np.zeros((1, 8, 9, 1), np.uint8)}, r"\(1 or more, 8, 8, 1\)"),
        ({"data_card": {"digest": "ab" * 32}}, "lacks value_range"),
        ({"spec": {"seed": {1, 2}}}, "not plain data"),
        (
            {"footprint": Footprint(macs=1, router_macs=1, flash_bytes=7, measured_arena_bytes=9, least_arena_bytes=9)},
            "flash_bytes 7, the",
        ),
        ({"payload_encoding": "png"}, "allowed raw, cbor, packed"),
    ],
)
def test_bad_values_are_refused_in_words(changes, complaint):
    with pytest.raises(SpecError, match=complaint):
        refused(**changes)


def test_shapes_must_be_the_models():
    with pytest.raises(BundleError, match="edge: 3 logits, expected one for each of 2 class names"):
        refused(class_names=CLASS_NAMES[:2])
    with pytest.raises(BundleError, match=r"edge: input \(8, 8, 1\), expected input_shape \(4, 16, 1\)"):
        refused(input_shape=(4, 16, 1), golden_pixels=np.zeros((1, 4, 16, 1), np.uint8))


def test_budgets():
    with pytest.raises(BudgetError, match="flash_bytes: needs"):
        refused(device=replace(DEVICE, flash_bytes=DEVICE.reserved_flash_bytes + program_flash_bytes(program()) - 1))
    fits = arena_bytes(inputs().footprint.least_arena_bytes, 0.1)
    refused(device=replace(DEVICE, sram_bytes=DEVICE.reserved_sram_bytes + fits))
    with pytest.raises(BudgetError, match=f"arena_bytes: needs {fits:,}, device board has {fits - 1:,}"):
        refused(device=replace(DEVICE, sram_bytes=DEVICE.reserved_sram_bytes + fits - 1))
