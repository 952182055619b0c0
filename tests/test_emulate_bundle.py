"""hybrid emulate: a bundle's own C on emulated cores, compared in all that it says, and its loop with a cloud."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from cloud_helpers import INPUTS, brightness, running
from tiny_edge import (
    INPUT_SHAPE,
    cascade_bundle,
    good_bundle,
    inputs,
    measured,
    pixels,
    prelu_program,
    program,
    sources,
)

from firmware_export.answers import Answers
from firmware_export.bundle import Bundle, file_entries, write
from firmware_export.cloud import endpoint_info
from firmware_export.contents import golden_pixels, read_checked, read_golden
from firmware_export.edge import build_edge_bundle, canonical_json
from firmware_export.emulate import programs
from firmware_export.emulate.boards import BOARDS
from firmware_export.emulate.errors import ToolchainError
from firmware_export.emulate.gateway import Outcome, Way
from firmware_export.emulate.machine import run
from hybrid.artifacts import Predictions
from hybrid.configure import run_spec, to_toml
from hybrid.errors import BundleError, HybridError, SpecError
from hybrid.pipeline.data import load_data
from hybrid.pipeline.emulating import Examples, emulate, examples_of, judged_loop, loop_values
from hybrid.pipeline.storage import write_predictions, write_routed
from hybrid.routing import Routed
from hybrid.runtimes import device_engine
from hybrid.serve import create_app

pytestmark = pytest.mark.skipif(
    device_engine() != "tflite-micro" or programs.missing() is not None,
    reason="needs tflite-micro, arm-none-eabi-gcc and QEMU",
)
INFO = endpoint_info(replace(INPUTS, input_shape=INPUT_SHAPE))
FASTER = ["mps2-an385", "mps2-an385-m0plus", "mps2-an386", "mps2-an500"]
SLOWER = [pytest.param(name, marks=pytest.mark.slow) for name in ("mps2-an505", "mps3-an547")]


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one") / "bundle"
    write(good_bundle(), folder)
    return folder


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    folder = tmp_path_factory.mktemp("three") / "bundle"
    write(cascade_bundle(), folder)
    return folder


@pytest.mark.parametrize("board", [*FASTER, *SLOWER])
def test_three_nets_say_on_every_core_what_tflite_micro_says(three, board):
    found = emulate(three, board, None)
    assert found.all_differences == ()
    emulated, golden = found.emulated, read_golden(cascade_bundle())[1]
    assert emulated.board.name == board
    assert emulated.answers.score.tolist() == golden["router_score"]
    assert emulated.answers.stage.tolist() == golden["stage"]
    assert emulated.answers.logits.tolist() == golden["logits"]
    reached = np.array(golden["stage"])
    runs = {layer.net: layer.runs for layer in emulated.layers}
    assert runs == {"edge": 20, "look_1": (reached >= 1).sum(), "look_2": (reached >= 2).sum()}
    within = sum(layer.instructions * layer.runs for layer in emulated.layers) / 20
    rounded_away = emulated.instructions - emulated.beside_layers - within
    assert -1 < rounded_away < len(emulated.layers) + 1
    assert 0 < emulated.stack_bytes < 2048
    assert emulated.sections.bss >= found.arena_bytes + 8 * 8


def test_all_boards_have_a_test():
    listed = re.findall(r"mps\d-an\d+", " ".join(str(mark.values) for mark in SLOWER))
    assert {*listed, *FASTER} == BOARDS.keys()


SELFTEST = """
#include "hybrid_selftest.h"
int main(void) {
  int32_t failed = 0;
  return (int)hybrid_selftest(&failed);
}
"""


def test_the_self_test_holds_on_an_emulated_core():
    unused = (".cc", "CMakeLists.txt", "README.md")
    given = {name: text for name, text in sources(cascade_bundle()).items() if not name.endswith(unused)}
    assert run({**given, "main.c": SELFTEST}, BOARDS["mps2-an386"]).exit_code == 0


def test_the_device_s_own_core_is_the_default(one):
    found = emulate(one, "", 2)
    assert found.emulated.board.name == "mps2-an386"  # a Cortex-M4
    assert len(found.emulated.answers.score) == 2


# The loop


def test_the_loop_keeps_and_asks_as_decided(one):
    """Of golden examples no labels are known, but every class, score and way; the cloud's answers are what it said."""
    with running(create_app(brightness, INFO)) as base:
        found = emulate(one, "mps2-an500", None, f"{base}/v2/models/{INFO.model_name}")
    loop, expected = found.loop, found.emulated.answers
    assert found.all_differences == ()
    assert (loop.right, loop.predicted_right) == (None, None)
    kept = expected.kept == 1
    assert 0 < kept.sum() < 5
    cloud = brightness(golden_pixels(good_bundle())).argmax(axis=1)
    assert [outcome.answer for outcome in loop.outcomes] == np.where(kept, expected.edge_class, cloud).tolist()


def test_a_loop_that_leaves_the_prediction_by_hand():
    """Kept and right; asked and right; another answer than the sweep counted on; no answer, and the edge is wrong."""
    column = np.array([[1, 5, 0, 1], [0, -3, 0, 0], [0, -4, 0, 0], [2, -9, 0, 0]]).T
    said = dict(zip(("edge_class", "score", "stage", "kept"), column, strict=True))
    expected = Answers(**said, logits=np.zeros((4, 3), np.int8), payloads=(b"",) * 4)
    labels = np.array([1, 2, 0, 1])
    examples = Examples(source="four", pixels=np.zeros((4, 1, 1, 1), np.uint8), labels=labels, predicted=labels)
    ways = (Way.KEPT, Way.ANSWERED, Way.ANSWERED, Way.UNANSWERED)
    answers = zip((1, 2, 1, 2), expected.edge_class, expected.score, ways, strict=True)
    outcomes = [Outcome(answer=a, edge_class=edge, score=score, way=way) for a, edge, score, way in answers]
    loop = judged_loop("url", examples, expected, outcomes)
    assert loop.differences == (
        "loop, example 2: answer must be 0, is 1",
        "loop, example 3, which the cloud did not answer: answer must be 1, is 2",
    )
    assert (loop.right, loop.predicted_right) == (2, 4)
    assert loop_values(loop) == {
        **{"url": "url", "kept": 1, "answered": 2, "unanswered": 1},
        **{"right": 2, "predicted_right": 4, "accuracy": 0.5, "predicted_accuracy": 1.0},
    }


# The examples of a run


@pytest.fixture
def small_run(tmp_path):
    """A run folder whose test split has eight images, and the bundle that was made in it."""
    x, y = pixels(60), np.arange(60, dtype=np.int32) % 3
    np.savez(tmp_path / "noise.npz", x_train=x[:52], y_train=y[:52], x_test=x[52:], y_test=y[52:])
    spec = run_spec(assignments=[f'data.name="{tmp_path / "noise.npz"}"'])
    (tmp_path / "spec.toml").write_text(to_toml(spec))
    keep_routed(tmp_path, program())
    (tmp_path / "predict").mkdir()
    scores = np.eye(3, dtype=np.float32)[y[52:]]
    score, stage = np.arange(8, dtype=np.int32), np.zeros(8, np.int32)
    said = Predictions(labels=y[52:], edge_logits=scores, router_score=score, cloud_scores=scores, stage=stage)
    write_predictions(tmp_path / "predict/test.npz", said)
    card = {"name": "noise", "digest": load_data(spec).digest, "value_range": (0.0, 255.0)}
    write(build_edge_bundle(inputs(data_card=card)), tmp_path / "bundle")
    return tmp_path


def keep_routed(folder, made):
    (folder / "router").mkdir(exist_ok=True)
    write_routed(folder / "router", Routed(program=made, kinds=("learned",), nauc=({},)), measured(made))


def chosen_examples(run_folder, images):
    bundle, made, _ = read_checked(run_folder / "bundle")
    return examples_of(run_folder / "bundle", bundle, made, images)


def test_a_small_test_split_is_taken_whole(small_run):
    found = chosen_examples(small_run, None)
    assert found.source == "images of the test split"
    assert len(found.pixels) == len(found.labels) == len(found.predicted) == 8
    assert len(chosen_examples(small_run, 3).pixels) == 3
    with pytest.raises(SpecError, match="images: got 9, the test split has 8"):
        chosen_examples(small_run, 9)


def test_another_router_on_the_same_net_is_another_run(small_run):
    (stage,) = program().stages
    other = replace(stage, router=replace(stage.router, cuts=stage.router.cuts + 1))
    keep_routed(small_run, replace(program(), stages=(other,)))
    with pytest.raises(BundleError, match="this run went on since the bundle was made"):
        chosen_examples(small_run, None)


# What the command says, and how it ends


def test_the_command_tells_everything(hybrid, three):
    code, out, err = hybrid("emulate", three, "--board", "mps2-an500", "--images", 6)
    assert (code, err) == (0, "")
    assert "mps2-an500, Cortex-M7: 6 golden examples." in out
    assert re.search(r"look_1 +1 CONV_2D +1x2x2x5 +\d+ +320 ", out)
    for word in ("instructions", "stack, high-water mark", ".text / .rodata", ".data / .bss", "arena"):
        assert word in out
    assert "Exact: logits, score, class, decision and payload of 6 examples are TFLite Micro's." in out


def test_the_command_s_json(hybrid, one):
    code, out, _ = hybrid("emulate", one, "--json")
    values = json.loads(out)
    assert code == 0
    assert (values["exact"], values["differences"], values["gateway"]) == (True, [], None)
    assert (values["examples"], values["source"]) == (5, "golden examples")
    assert set(values["sections"]) == {"text", "rodata", "data", "bss"}
    assert [layer["kind"] for layer in values["layers"]] == ["CONV_2D", "MEAN", "FULLY_CONNECTED"]


def resealed(changes, folder):
    files = {**good_bundle().files, **changes}
    del files["manifest.json"]
    manifest = {**good_bundle().manifest, "files": file_entries(files)}
    write(Bundle({**files, "manifest.json": canonical_json(manifest)}), folder)
    return folder


def test_a_difference_is_shown_and_ends_with_1(hybrid, tmp_path):
    path = "firmware/hybrid_decide.c"
    text = good_bundle().files[path].replace(b"threshold_in_force = 7;", b"threshold_in_force = 8;")
    values = read_golden(good_bundle())[1]["router_score"]
    folder = resealed({path: text.replace(b">= threshold_in_force", b"< threshold_in_force")}, tmp_path / "bundle")
    code, out, err = hybrid("emulate", folder, "--json")
    assert code == 1
    first = f"example 0: kept must be {int(values[0] >= 7)}, is {int(values[0] < 8)}"
    assert err == f"error: {folder}: 5 values differ; {first}\n"
    assert json.loads(out)["differences"][0] == first


def test_what_is_refused_ends_with_2(hybrid, one, tmp_path):
    for words, complaint in (
        (["emulate", one, "--board", "mps2-an368"], "board: unknown 'mps2-an368'; did you mean mps2-an386"),
        (["emulate", tmp_path / "none"], "expected a bundle's folder, got nothing"),
        (["emulate", one, "--images", 6], "images: got 6, the bundle has 5 golden examples"),
        (["emulate", one, "--gateway", "http://127.0.0.1:9/cloud"], "expected the form http://host:8080/v2/models/"),
        (["emulate", one, "--images", 0], "0 is not in the range x>=1"),
    ):
        code, out, err = hybrid(*words)
        assert (code, out) == (2, "")
        assert err.startswith("error: ")
        assert complaint in err


def test_a_missing_toolchain_is_named_with_its_package(one, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ToolchainError, match="arm-none-eabi-gcc: not found; install Debian's gcc-arm-none-eabi"):
        emulate(one, "mps2-an386", None)


def test_a_bundle_that_was_touched_is_not_run(one, tmp_path):
    folder = tmp_path / "bundle"
    write(good_bundle(), folder)
    (folder / "firmware/hybrid_router.c").write_text("int x;\n")
    with pytest.raises(BundleError, match=r"firmware/hybrid_router\.c: expected"):
        emulate(folder, "mps2-an386", None)


def test_a_bundle_without_the_engine(tmp_path):
    write(build_edge_bundle(inputs(program=prelu_program())), tmp_path / "bundle")
    with pytest.raises(HybridError, match=r"bundle: has no ahead-of-time engine \(.*PRELU.*\), and so nothing"):
        emulate(tmp_path / "bundle", "mps2-an386", None)


def test_a_core_that_nobody_emulates(tmp_path):
    device = replace(inputs().device, core="Xtensa LX7")
    write(build_edge_bundle(inputs(device=device)), tmp_path / "bundle")
    with pytest.raises(
        SpecError, match="board: none is emulated with the device's Xtensa LX7; choose one of mps2-an385"
    ):
        emulate(tmp_path / "bundle", "", None)
    assert emulate(tmp_path / "bundle", "mps2-an500", None).all_differences == ()
