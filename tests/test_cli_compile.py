"""`hybrid compile`: what it writes and says, and everything for which it refuses to write."""

import json
import os
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from engine_build import Draft, single_op
from engine_models import tflm_many
from engine_nets import random_net

from firmware_export import engine
from firmware_export.emulate.programs import missing
from firmware_export.engine.budgets import Weights
from firmware_export.engine.verify import compare, random_examples
from firmware_export.host import has_c_compiler
from hybrid.cli.models import CPUS, compile_model
from hybrid.errors import MismatchError
from hybrid.runtimes import device_engine

ROOT = Path(__file__).parents[1]
MODELS = Path(os.environ.get("HYBRID_DATA_DIR", "no data"), "tflite-models")
SOURCES = {f"{{}}{end}" for end in (".c", ".h", "_weights.c", "_weights.h", "_kernels.c", "_kernels.h")}
exact = pytest.mark.skipif(
    device_engine() != "tflite-micro" or not has_c_compiler(), reason="needs tflite-micro and a C compiler"
)
emulated = pytest.mark.skipif(missing() is not None, reason="needs arm-none-eabi-gcc, newlib and QEMU")


def net(seed=5):
    """Convolutions, a depthwise one, pooling and two heads."""
    return random_net(np.random.default_rng(seed), 2)


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "net.tflite"
    path.write_bytes(net())
    return path


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def names(prefix):
    return {name.format(prefix) for name in SOURCES} | {"README.md", "compiled.json"}


def elsewhere(*words, before="pass", **more):
    """The command in a process of its own, `before` being what happened there first."""
    code = f"import sys; {before}; from hybrid.cli import main; main()"
    command = [sys.executable, "-c", code, *map(str, words)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, **more)


# What it writes


@exact
def test_an_exact_model_becomes_a_folder_that_firmware_can_use(hybrid, model, tmp_path):
    """Compiled as the README says, in a section of its own, it answers as TFLite Micro does."""
    out = tmp_path / "deep" / "out"
    code, said, err = hybrid("compile", model, "--out", out, "--cpu", "host", "--verify", "20")
    assert (code, err) == (0, "")
    assert "20 random inputs, every bit as TFLite Micro" in said
    assert contents(out).keys() == names("model")
    assert list(out.parent.iterdir()) == [out]

    compiled = engine.compile_model(net())
    (example,) = random_examples(compiled, 1, np.random.default_rng(1))
    (expected,) = tflm_many(net(), [example])
    reads = "".join(f"fread(model_input_{i}(), 1, {a.nbytes}, stdin);" for i, a in enumerate(example))
    writes = "".join(f"fwrite(model_output_{i}(), 1, {a.nbytes}, stdout);" for i, a in enumerate(expected))
    (tmp_path / "main.c").write_text(
        f'#include <stdio.h>\n#include "model.h"\nint main(void) {{ {reads} model_run(); {writes} }}'
    )
    section = '-DMODEL_ARENA_ATTRIBUTE=__attribute__((section(".dtcm")))'
    units = [out / name for name in ("model.c", "model_weights.c", "model_kernels.c")]
    cc = ["cc", "-std=c99", "-O2", section, f"-I{out}", "-o", tmp_path / "program"]
    subprocess.run([*cc, tmp_path / "main.c", *units], check=True, capture_output=True)
    assert b".dtcm" in (tmp_path / "program").read_bytes()
    done = subprocess.run(tmp_path / "program", input=b"".join(a.tobytes() for a in example), capture_output=True)
    assert done.stdout == b"".join(a.tobytes() for a in expected)


@exact
@emulated
def test_on_an_emulated_core_layers_are_counted_and_outputs_compared(hybrid, model, tmp_path):
    words = ("compile", model, "--out", tmp_path / "out", "--verify", "6")
    code, said, err = hybrid(*words)
    assert (code, err) == (0, "")
    assert "6 random inputs, every bit as TFLite Micro, 4 of them on the emulated core as well" in said
    known = json.loads((tmp_path / "out/compiled.json").read_text())
    assert known["verified"] == {"examples": 6, "on_board": 4, "seed": 0}
    assert known["measured"]["board"] == "mps2-an386"
    totals, layers = known["totals"], known["layers"]
    counted = sum(layer["instructions"] for layer in layers)
    assert counted < totals["instructions"] < counted + 12 * len(layers)  # a call, a return, and a jump or two
    assert totals["macs"] == sum(layer["macs"] for layer in layers) > 0
    assert totals["macs_left_out"] == 0
    assert "left out" not in said
    assert totals["arena_bytes"] >= totals["arena_bound_bytes"] == max(layer["live_bytes"] for layer in layers)
    assert 0 < totals["stack_bytes"] < 2048
    assert totals["constants_bytes"] > totals["weights_and_tables_bytes"] > sum(n["flash_bytes"] for n in layers) - 1
    table = [line for line in said.splitlines() if re.match(r" +\d+ [A-Z]", line)]
    for line, layer in zip(table, layers, strict=True):
        figures = [f"{layer[key]:,}" for key in ("instructions", "scratch_bytes", "live_bytes", "flash_bytes")]
        assert line.split()[-4:] == figures
        assert line.split()[1:3] == [layer["op"], "x".join(map(str, layer["output_shape"]))]
    assert f"{totals['instructions']:,}" in said
    readme = (tmp_path / "out/README.md").read_text()
    assert f"{totals['instructions']:,}" in readme
    assert f"{totals['stack_bytes']:,} |" in readme
    assert "4 of them also ran on the emulated core" in readme
    before = contents(tmp_path / "out")
    assert hybrid(*words)[0] == 0
    assert contents(tmp_path / "out") == before


@emulated
def test_every_layer_of_a_long_model_is_counted():
    """There are numbers for 255 layers at a time; all these do the same."""
    draft = Draft()
    last = draft.input((1, 40), scale=0.1)
    for _ in range(300):
        last = draft.op("RELU", [last], draft.tensor((1, 40), scale=0.1))
    product = engine.make(draft.flatbuffer(last))
    counts = [layer["instructions"] for layer in engine.figures(product)["layers"]]
    assert len(counts) == 300
    assert max(counts) - min(counts) < 20
    assert abs(product.measured.instructions - sum(counts)) < 12 * 300  # calls, which marks keep from being inlined


def test_json_gives_the_same_figures(hybrid, model, tmp_path):
    code, said, err = hybrid("compile", model, "--out", tmp_path / "out", "--cpu", "host", "--json")
    assert (code, err) == (0, "")
    known = json.loads((tmp_path / "out/compiled.json").read_text())
    digests = known.pop("files")
    assert json.loads(said) == known
    assert digests.keys() == names("model") - {"compiled.json"}
    assert (known["verified"], known["measured"], known["totals"]["instructions"]) == (None, None, None)


def test_the_same_model_gives_the_same_bytes(hybrid, model, tmp_path):
    for folder in ("one", "other"):
        assert hybrid("compile", model, "--out", tmp_path / folder, "--cpu", "host")[0] == 0
    assert contents(tmp_path / "one") == contents(tmp_path / "other")


def test_an_earlier_compile_is_replaced_as_a_whole(hybrid, model, tmp_path):
    out = tmp_path / "out"
    out.mkdir()  # an empty folder may be there
    for prefix in ("first", "second"):
        assert hybrid("compile", model, "--out", out, "--cpu", "host", "--prefix", prefix)[0] == 0
        assert contents(out).keys() == names(prefix)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.tflite", "out"]


def test_python_does_what_the_command_does(hybrid, model, tmp_path):
    options = ("--cpu", "host", "--weights", "int8", "--prefix", "eye")
    assert hybrid("compile", model, "--out", tmp_path / "command", *options)[0] == 0
    product = engine.make(net(), cpu="host", weights="int8", prefix="eye")
    engine.store(product, tmp_path / "python")
    assert contents(tmp_path / "python") == contents(tmp_path / "command") == engine.product_files(product)


def test_weights_are_as_the_core_gains_and_as_asked_for():
    def widths(**options):
        return {layer.weights for layer in engine.compile_model(net(), **options).layers} - {None}

    assert widths(cpu="cortex-m7") == {"int16"}
    assert widths(cpu="cortex-m0plus") == {"int8"}
    assert widths(cpu="cortex-m0plus", weights="int16") == {"int16"}
    assert widths(cpu="cortex-m7", weights="int8") == {"int8"}


def test_live_bytes_stay_within_the_bound_of_the_arena():
    for seed in range(12):
        compiled = engine.compile_model(net(seed))
        live = [layer.live_bytes for layer in compiled.layers]
        assert max(live) <= compiled.bound_bytes <= compiled.ram_bytes
        assert all(layer.scratch_bytes <= layer.live_bytes for layer in compiled.layers)


@pytest.mark.parametrize(
    ("name", "depthwise"), [("mlperf-tiny/vww_96_int8.tflite", 13), ("tflite-micro/person_detect.tflite", 14)]
)
def test_the_table_of_a_large_model_fits_120_columns(hybrid, tmp_path, name, depthwise):
    if not MODELS.is_dir():
        pytest.skip("HYBRID_DATA_DIR has no tflite-models")
    code, said, _ = hybrid("compile", MODELS / name, "--out", tmp_path / "out", "--cpu", "host")
    assert code == 0
    table = said.splitlines()
    assert max(map(len, table)) <= 120
    assert "…" not in said
    assert len([line for line in table if re.match(r" +\d+ [A-Z]", line)]) == 31
    named = re.compile(r"DEPTHWISE_CONV_2D .* (planes_any|lean_depthwise) ")
    assert len([line for line in table if named.search(line)]) == depthwise  # one line a layer: no name is broken


def test_a_narrow_terminal_shows_every_figure(hybrid, model, tmp_path, monkeypatch):
    words = ("compile", model, "--out", tmp_path / "out", "--cpu", "host")
    wide = [line.split() for line in hybrid(*words)[1].splitlines()]
    monkeypatch.setenv("COLUMNS", "50")
    monkeypatch.setenv("FORCE_COLOR", "1")
    narrow = [line.split() for line in re.sub(r"\x1b\[[0-9;]*m", "", hybrid(*words)[1]).splitlines()]
    layers = [line for line in wide if line[:1] and line[0].isdigit()]
    assert len(layers) == len(engine.compile_model(net()).layers)
    assert [line for line in layers if line not in narrow] == []


def test_the_choices_are_those_of_the_engine():
    assert CPUS == engine.CPUS == tuple(engine.CORES)
    weights = next(option for option in compile_model.params if option.name == "weights")
    assert tuple(weights.type.choices) == get_args(Weights)


# Outputs that differ


def sabotaging_compiler(folder):
    """A C compiler that loses the first layer."""
    path = folder / "cc"
    path.write_text(
        f'#!/bin/sh\nsed -i "s/^    model_layer_0();//" model.c\n{shutil.which("gcc")} "$@" -Wno-unused-function\n'
    )
    path.chmod(0o755)
    return str(path)


@exact
def test_a_mismatch_is_shown_and_nothing_is_written(hybrid, model, tmp_path, monkeypatch):
    monkeypatch.setenv("CC", sabotaging_compiler(tmp_path))
    code, _, err = hybrid("compile", model, "--out", tmp_path / "out", "--cpu", "host", "--verify", "3")
    assert code == 1
    said = re.fullmatch(
        r"error: the compiled code is not exact on this machine: input 0, output \d, index \[0, \d+\]: "
        r"TFLite Micro gives (-?\d+), the compiled code (-?\d+) \(random inputs of seed 0\); nothing was written\n",
        err,
    )
    assert said, err
    assert said[1] != said[2]
    assert not (tmp_path / "out").exists()


@exact
def test_a_mismatch_leaves_an_earlier_compile_alone(hybrid, model, tmp_path, monkeypatch):
    words = ("compile", model, "--out", tmp_path / "out", "--cpu", "host")
    assert hybrid(*words)[0] == 0
    before = contents(tmp_path / "out")
    monkeypatch.setenv("CC", sabotaging_compiler(tmp_path))
    assert hybrid(*words, "--verify", "1", "--weights", "int16")[0] == 1
    assert contents(tmp_path / "out") == before
    with pytest.raises(MismatchError):
        engine.make(net(), cpu="host", examples=1)


@exact
def test_one_wrong_bit_on_a_board_is_found():
    compiled = engine.compile_model(net())
    examples = random_examples(compiled, 3, np.random.default_rng(0))
    outputs = [[value.copy() for value in values] for values in tflm_many(net(), examples)]
    assert compare(net(), compiled, examples, outputs) is None
    right = int(outputs[2][1][0, 0])
    outputs[2][1][0, 0] = right ^ 1
    found = compare(net(), compiled, examples, outputs)
    assert (found.example, found.output, found.index) == (2, 1, (0, 0))
    assert (found.expected, found.got) == (right, right ^ 1)


# What it refuses


def float_model():
    return single_op("RELU", [{"shape": (1, 4), "dtype": "float32"}], {"shape": (1, 4), "dtype": "float32"})


def unknown_operator():
    return single_op("EXP", [{"shape": (1, 4), "scale": 0.5}], {"shape": (1, 4), "scale": 0.5})


@pytest.mark.parametrize(
    ("content", "options", "words"),
    [
        (b"", [], ["expected b'TFL3'", "give a .tflite file"]),
        (b"not a model at all", [], ["expected b'TFL3'"]),
        (net()[:2000], [], ["cut off"]),
        (float_model(), [], ["operator 0 RELU", "is float32", "int8"]),
        (unknown_operator(), [], ["operator 0 EXP", "supported are ADD, AVERAGE_POOL_2D"]),
        (net(), ["--ram-bytes", "1000"], ["ram_bytes: needs ", "allowed are 1,000; while running: layer ", "CONV_2D"]),
        (net(), ["--flash-bytes", "500"], ["flash_bytes: needs ", "allowed are 500; weights and tables: layer "]),
        (net(), ["--prefix", "My-Net"], ["prefix: got 'My-Net', allowed lower-case letters"]),
        (net(), ["--prefix", "string"], ["prefix: got 'string'", "choose another, such as string_net"]),
        (net(), ["--cpu", "cortex-m9"], ["--cpu", "cortex-m9", "cortex-m0plus", "see hybrid compile --help"]),
        (net(), ["--weights", "int4"], ["--weights", "int4", "auto"]),
        (net(), ["--ram-bytes", "0"], ["--ram-bytes", "0"]),
        (net(), ["--verify", "many"], ["--verify", "many"]),
    ],
)
def test_bad_models_and_options(refused, tmp_path, content, options, words):
    path = tmp_path / "x.tflite"
    path.write_bytes(content)
    line = refused("compile", path, "--out", tmp_path / "out", "--cpu", "host", *options)
    assert [word for word in words if word not in line] == []
    assert [file.name for file in tmp_path.iterdir()] == ["x.tflite"]


def test_the_ram_that_a_refusal_names_is_enough(hybrid, refused, model, tmp_path):
    words = ("compile", model, "--out", tmp_path / "out", "--cpu", "host", "--ram-bytes")
    needed = re.search(r"needs ([\d,]+)", refused(*words, 1000))[1].replace(",", "")
    refused(*words, int(needed) - 1)
    assert hybrid(*words, needed)[0] == 0
    known = json.loads((tmp_path / "out/compiled.json").read_text())
    assert known["totals"]["arena_bytes"] == int(needed)


def test_a_model_that_is_not_there(refused, tmp_path):
    assert f"{tmp_path / 'none.tflite'}: cannot be read" in refused(
        "compile", tmp_path / "none.tflite", "--out", tmp_path / "out"
    )
    assert "cannot be read (Is a directory)" in refused("compile", tmp_path, "--out", tmp_path / "out")
    assert "--out" in refused("compile", tmp_path / "none.tflite")


@pytest.mark.parametrize("change", ["alien", "edited", "no compile", "folder"])
def test_what_is_someone_elses_is_not_replaced(hybrid, refused, model, tmp_path, change):
    out = tmp_path / "out"
    words = ("compile", model, "--out", out, "--cpu", "host")
    assert hybrid(*words)[0] == 0
    if change == "alien":
        (out / "notes.txt").write_text("mine")
    elif change == "edited":
        (out / "model.c").write_text("better")
    elif change == "folder":
        (out / "model.o").mkdir()
    else:
        (out / "compiled.json").write_text('{"files": 3, "made_by": []}')
    before = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    said = refused(*words, "--prefix", "other")
    wanted = {"alien": "notes.txt", "edited": "model.c was changed", "no compile": "holds files", "folder": "model.o"}
    assert wanted[change] in said
    assert "choose a new folder" in said
    assert {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()} == before


def test_an_out_that_is_a_file_or_takes_none(refused, model):
    before = model.read_bytes()
    assert "is a file" in refused("compile", model, "--out", model)
    assert "cannot be written" in refused("compile", model, "--out", model / "below", "--cpu", "host")
    assert "cannot be written" in refused("compile", model, "--out", "/proc/compiled", "--cpu", "host")
    assert model.read_bytes() == before


def test_a_disk_that_fills_up_leaves_nothing(refused, model, small_disk):
    assert "(No space left on device)" in refused("compile", model, "--out", small_disk / "out", "--cpu", "host")
    assert list(small_disk.iterdir()) == []


def test_files_that_may_not_grow_leave_nothing(model, tmp_path):
    done = elsewhere(
        *("compile", model, "--out", tmp_path / "out", "--cpu", "host"),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)),
    )
    assert done.returncode == 2
    assert "cannot be written (File too large)" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["net.tflite"]


def test_no_c_compiler(refused, model, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    assert "no C compiler found" in refused(
        "compile", model, "--out", tmp_path / "out", "--cpu", "host", "--verify", "1"
    )
    assert not (tmp_path / "out").exists()


def test_no_tflite_micro(model, tmp_path):
    words = ("compile", model, "--out", tmp_path / "out", "--cpu", "host", "--verify", "1")
    done = elsewhere(*words, before="sys.modules['tflite_micro'] = None")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "TFLite Micro is missing" in done.stderr
    assert not (tmp_path / "out").exists()


def test_no_emulator_and_no_tensorflow(model, tmp_path):
    """Files come all the same, and a line says what is missing. TensorFlow, which takes seconds to load, is not."""
    out = tmp_path / "out"
    environment = {**os.environ, "PATH": str(tmp_path)}
    before = "sys.modules.update(dict.fromkeys(('tensorflow', 'keras', 'tf_keras')))"
    done = elsewhere("compile", model, "--out", out, before=before, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert "were not measured: arm-none-eabi-gcc: not found; install Debian's gcc-arm-none-eabi" in done.stdout
    assert contents(out).keys() == names("model")
    assert "Instructions were not counted: arm-none-eabi-gcc: not found" in (out / "README.md").read_text()


def test_a_cross_compiler_without_its_library_is_told(monkeypatch, tmp_path):
    """It answers with the bare name where it does not find a file."""
    for name in ("arm-none-eabi-gcc", "arm-none-eabi-size", "qemu-system-arm"):
        (tmp_path / name).write_text("#!/bin/sh\necho nosys.specs\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert missing() == "newlib: not found; install Debian's libnewlib-arm-none-eabi"
