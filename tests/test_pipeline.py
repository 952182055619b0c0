"""One story from end to end, through the command itself: data in, bundle and report out, resumed, served, verified."""

import json
import shutil
import signal
import subprocess
import urllib.request
from dataclasses import replace
from pathlib import Path

import cbor2
import numpy as np
import pytest
from run_helpers import ROOT, STAGES, TINY, apart, command, hybrid, read, stamps, stripes, tree
from tritonclient import http as triton

from datasets import load
from firmware_export.emulate import programs
from firmware_export.packing import pack
from firmware_export.payload import Query, encode_payload
from hybrid import profiles
from hybrid.configure import run_spec, to_toml
from hybrid.device_router import StoredOutputs
from hybrid.pipeline import Run
from hybrid.pipeline.storage import read_routed
from hybrid.runtimes import device_engine

LATE = {"router", "predict", "sweep", "bundle"}
PREDICTIONS = ("labels", "edge_logits", "router_score", "cloud_scores", "stage")
EVERY = {*STAGES, "probes", "question", "look", "folds", "bundle"}
ASKED = {"question", "search"}
BEFORE = {"cloud", "supernet", "probes"}
STORY = {
    "data.limit": "1300",
    "data.calibration_fraction": "0.4",
    "data.validation_fraction": "0.1",
    "quantize.methods": '["ptq"]',
}
TRAIN, TEST = 3000, 1000
"""Images of Fashion-MNIST."""


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    path = tmp_path_factory.mktemp("spec") / "tiny.toml"
    path.write_text(TINY)
    return path


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """The first images of Fashion-MNIST in a file."""
    splits, path = load("fashion_mnist").splits, tmp_path_factory.mktemp("images") / "clothes.npz"
    train, test = splits["train"], splits["test"]
    np.savez(path, x_train=train.x[:TRAIN], y_train=train.y[:TRAIN], x_test=test.x[:TEST], y_test=test.y[:TEST])
    return path


@pytest.fixture(scope="module")
def story(tmp_path_factory, spec, images):
    """A finished run: its folder, and what the command said."""
    folder = tmp_path_factory.mktemp("story") / "run"
    settings = [word for key, value in STORY.items() for word in ("--set", f"{key}={value}")]
    return folder, *apart("run", "--out", folder, "--spec", spec, "--dataset", images, *settings)


@pytest.fixture(scope="module")
def folder(story):
    return story[0]


@pytest.fixture(scope="module")
def summary(folder):
    return read(folder / "summary.json")


@pytest.fixture(scope="module")
def manifest(folder):
    return read(folder / "bundle/manifest.json")


@pytest.fixture(scope="module")
def predicted(folder):
    """Predictions over calibration and test, as they lie in the run folder."""
    found = {}
    for name in ("calibration", "test"):
        with np.load(folder / f"predict/{name}.npz") as stored:
            found[name] = {key: stored[key] for key in PREDICTIONS}
    return found


@pytest.fixture(scope="module")
def test_split(images):
    return load(str(images)).test


def hand_made(found, threshold):
    """Coverage and accuracy of a threshold, example by example."""
    kept, right = 0, 0
    for label, logits, score, cloud, _ in zip(*(found[key] for key in PREDICTIONS), strict=True):
        kept += score >= threshold
        right += (logits if score >= threshold else cloud).argmax() == label
    return kept / len(found["labels"]), right / len(found["labels"])


# The run and what it leaves


def test_the_command_is_quiet_and_tells_the_steps_in_their_order(story):
    _, out, err = story
    assert err == ""
    assert "\x1b" not in out
    sentences = [line.partition(":")[0] for line in out.splitlines() if line and not line.startswith(" ")]
    steps = (
        "Data",
        "Cloud",
        "Supernet",
        "Search",
        "Edge",
        "Alternation",
        "Quantisation",
        "Router",
        "Predictions",
        "Export",
    )
    assert [s for s in sentences if s in (*steps, "Report", "Bundle")] == [*steps, "Report", "Report", "Bundle"]


def test_every_artifact_is_there(folder):
    assert {path.name for path in folder.iterdir() if not path.name.startswith(".")} == {
        *STAGES,
        "bundle",
        "report.html",
        "spec.toml",
        "summary.json",
    }
    assert not list(folder.rglob("*.partial"))
    bundle = set(tree(folder / "bundle"))
    assert bundle >= {
        "edge.tflite",
        "manifest.json",
        "golden/golden.json",
        "golden/inputs.bin",
        "firmware/hybrid_classify.cc",
        "firmware/hybrid_decide.c",
        "firmware/CMakeLists.txt",
        "cloud/endpoint.toml",
        "cloud/models/cloud/1/model.savedmodel/saved_model.pb",
    }


def test_the_run_folder_holds_the_spec_that_made_it(folder, spec):
    made = run_spec(paths=[folder / "spec.toml"])
    assert made.data.limit == 1300
    assert made.cloud.width == 8


def test_summary_and_manifest_agree(summary, manifest):
    model, memory = manifest["models"]["edge"], manifest["memory"]
    assert (
        summary["model_flash_bytes"] == memory["flash_bytes"] == model["flash_bytes"] + model["router"]["flash_bytes"]
    )
    assert summary["arena_bytes"] == memory["arena_bytes"]
    assert summary["macs"] == model["macs"]
    assert summary["router_kind"] == model["router"]["kind"]
    assert summary["data_digest"] == manifest["data"]["digest"]
    assert summary["device"] == manifest["device"]["name"]
    assert summary["hybrid"]["threshold"] == manifest["chosen"]["threshold"]


def test_the_threshold_is_guaranteed_by_the_calibration_split(folder, summary, predicted):
    certificate = read(folder / "sweep/certificate.json")
    assert certificate["n"] == len(predicted["calibration"]["labels"]) == 1200
    assert certificate["lowest"] <= summary["hybrid"]["threshold"] <= certificate["highest"]
    assert summary["guarantee"] == (
        "accuracy at most 0.5 points below the cloud's, with confidence 90 % over 1,200 calibration examples"
    )
    found = predicted["calibration"]
    _, accuracy = hand_made(found, summary["hybrid"]["threshold"])
    assert accuracy >= (found["cloud_scores"].argmax(axis=1) == found["labels"]).mean() - 0.005


def test_the_console_says_what_is_guaranteed(story, summary):
    assert f"Guaranteed: {summary['guarantee']}.\n" in story[1]


def test_chosen_threshold_by_hand(summary, predicted):
    coverage, accuracy = hand_made(predicted["test"], summary["hybrid"]["threshold"])
    assert summary["hybrid"]["coverage"] == pytest.approx(coverage)
    assert summary["hybrid"]["accuracy"] == pytest.approx(accuracy)


def test_queries_are_packed(summary, manifest, test_split):
    """Fashion-MNIST's images to half; at most the pixels and a frame of 29 bytes."""
    assert manifest["payload"] == {"encoding": "packed", "max_bytes": 784 + 29}
    some = [len(packed) for packed in pack(test_split.x[::10])]
    assert summary["payload_bytes"] == pytest.approx(np.mean(some) + 29, rel=0.05)
    assert summary["payload_bytes"] < 0.55 * 784


def test_operating_points_of_the_firmware_by_hand(manifest, predicted):
    assert len(manifest["operating_points"]) == 9
    for point in manifest["operating_points"]:
        coverage, accuracy = hand_made(predicted["calibration"], point["threshold"])
        assert (point["coverage"], point["accuracy"]) == pytest.approx((coverage, accuracy)), point["name"]


def test_coverage_one_is_the_edge_alone_and_zero_the_cloud(folder, summary, predicted):
    found = predicted["test"]
    edge_right = found["edge_logits"].argmax(axis=1) == found["labels"]
    cloud_right = found["cloud_scores"].argmax(axis=1) == found["labels"]
    assert hand_made(found, -128) == pytest.approx((1, edge_right.mean()))
    assert hand_made(found, 128) == pytest.approx((0, cloud_right.mean()))
    assert summary["edge_int8_accuracy"] == pytest.approx(edge_right.mean())
    assert summary["cloud_accuracy"] == pytest.approx(cloud_right.mean())
    points = {p["name"]: p for p in read(folder / "sweep/named.json")}
    assert points["edge_only"]["coverage"] == 1
    assert points["cloud_only"]["coverage"] == 0


def test_the_bundle_s_model_in_tflite_micro_says_what_the_predictions_say(folder, predicted, test_split):
    """With the router beside it in integers, on what this very net gave."""
    runtime = pytest.importorskip("tflite_micro").runtime
    interpreter = runtime.Interpreter.from_file(str(folder / "bundle/edge.tflite"), arena_size=1 << 24)
    (stage,) = read_routed(folder / "router")[0].program.stages
    found, rows = predicted["test"], range(0, TEST, 3)
    assert np.array_equal(found["labels"], test_split.y)
    for row in rows:
        interpreter.set_input((test_split.x[row : row + 1].astype(np.int16) - 128).astype(np.int8), 0)
        interpreter.invoke()
        said = StoredOutputs(logits=interpreter.get_output(0), features=interpreter.get_output(1))
        assert said.logits.argmax() == found["edge_logits"][row].argmax()
        assert stage.router.score(said).item() == found["router_score"][row]


def test_report_shows_the_same_numbers(story, summary):
    folder, out, _ = story
    page = (folder / "report.html").read_text(encoding="utf-8")
    for share in (
        summary["hybrid"]["accuracy"],
        summary["hybrid"]["coverage"],
        summary["edge_int8_accuracy"],
        summary["cloud_accuracy"],
    ):
        assert f"{100 * share:.1f}\N{NO-BREAK SPACE}%" in page
        assert f"{100 * share:.1f}\N{NO-BREAK SPACE}%" in out
    assert f"{summary['hybrid']['mean_latency_ms']:.0f}\N{NO-BREAK SPACE}ms" in page
    assert f"{summary['model_flash_bytes'] / 1024:.1f}\N{NO-BREAK SPACE}KiB" in page


# Again, and otherwise


@pytest.fixture
def copied(folder, tmp_path):
    """The run folder once more, times included."""
    return Path(shutil.copytree(folder, tmp_path / "run"))


def test_a_second_run_makes_nothing_again(copied):
    before, bundle = stamps(copied), tree(copied / "bundle")
    written = (copied / "bundle/manifest.json").stat().st_mtime_ns
    hybrid("run", "--out", copied)
    assert stamps(copied) == before
    assert tree(copied / "bundle") == bundle
    assert (copied / "bundle/manifest.json").stat().st_mtime_ns == written


def test_a_late_key_makes_late_stages_again(copied, predicted):
    before = stamps(copied)
    hybrid("run", "--out", copied, "--set", "sweep.min_coverage=0.8")
    after = stamps(copied)
    assert {name for name in STAGES if after[name] != before[name]} == {"sweep"}
    threshold = read(copied / "bundle/manifest.json")["chosen"]["threshold"]
    assert hand_made(predicted["calibration"], threshold)[0] >= 0.8
    certificate = read(copied / "sweep/certificate.json")
    assert certificate["targets"] == [{"kind": "max_queries", "value": pytest.approx(0.2)}]
    assert certificate["lowest"] <= threshold <= certificate["highest"]
    assert run_spec(paths=[copied / "spec.toml"]).sweep.min_coverage == 0.8


def test_limits_of_one_command_after_the_other_hold_together(copied, predicted):
    hybrid("sweep", "--out", copied, "--max-queries", "0.9")
    out, _ = hybrid("sweep", "--out", copied, "--max-loss", "0.02")
    assert "Guaranteed: accuracy at most 2 points below the cloud's, at most 90 % queries, with confidence 90 %" in out
    coverage, accuracy = hand_made(predicted["calibration"], read(copied / "sweep/confirmed.json")[0]["threshold"])
    found = predicted["calibration"]
    assert coverage >= 0.1
    assert accuracy >= (found["cloud_scores"].argmax(axis=1) == found["labels"]).mean() - 0.02
    out, _ = hybrid("sweep", "--out", copied, "--max-loss", "0")
    assert "Guaranteed: at most 90 % queries, with confidence 90 %" in out
    out, _ = hybrid("sweep", "--out", copied, "--confidence", "0")
    assert "Guaranteed" not in out


def test_a_limit_that_no_threshold_holds(copied):
    """It changes nothing, nor does the next command hear of it."""
    before, bundle, spec = stamps(copied), tree(copied / "bundle"), (copied / "spec.toml").read_bytes()
    _, err = hybrid("run", "--out", copied, "--min-accuracy", "0.9999", code=2)
    assert err.startswith("error: sweep: min_accuracy = 0.9999 cannot be certified with confidence 0.9 on 1,200 ")
    assert "the cloud alone reaches 0." in err
    _, unguarded = hybrid("run", "--out", copied, "--min-accuracy", "0.9999", "--confidence", "0", code=2)
    assert unguarded.startswith("error: sweep: no operating point holds min_accuracy = 0.9999; nearest: highest acc")
    assert err.count("\n") == 1
    assert (stamps(copied), tree(copied / "bundle"), (copied / "spec.toml").read_bytes()) == (before, bundle, spec)
    assert not list(copied.rglob("*.partial"))


@pytest.mark.parametrize(
    ("change", "made_again"),
    [
        ("seed=1", {*EVERY}),
        ("data.limit=300", {*EVERY}),
        ("cloud.epochs=9", EVERY),  # the supernet learns from the cloud, and pairs are scored with it
        ("search.supernet_epochs=9", EVERY - {"cloud"}),
        ("search.probes=3", EVERY - {"cloud", "supernet"}),
        ("search.probe_epochs=3", {"bundle"}),  # there are none to train
        ("search.finalists=3", EVERY - BEFORE - {"question"}),
        ("search.trials=9", EVERY - BEFORE - {"question"}),  # the same question: a search can be prolonged
        ("search.min_coverage=0.9", EVERY - BEFORE),
        ("search.max_latency_ms=50", EVERY - {"cloud"}),  # the supernet trains no net that does not fit
        ('look.kind="net"', EVERY - {"cloud"}),  # two nets share the flash: the search looks for smaller ones
        ("train.edge_epochs=9", EVERY - BEFORE - ASKED),
        ("train.distillation=0.9", EVERY - {"cloud"}),  # the supernet is distilled as well
        ("train.batch_size=9", EVERY),
        ("look.exit_after=1", {"look", "quantize", *LATE}),
        ("look.share=0.3", LATE),
        ("router.epochs=9", LATE),
        ("quantize.qat_epochs=9", {"quantize", *LATE}),
        ("sweep.confidence=0.95", {"sweep", "bundle"}),
        ('link="wifi"', EVERY - BEFORE),  # what a query takes decides how often the cloud may be asked
        ('cloud.server="gpu-large"', EVERY - BEFORE),
        ("cloud.latency_ms=3", EVERY - BEFORE),
        ("sweep.min_coverage=0.9", {"sweep", "bundle"}),
        ("sweep.max_latency_ms=50", {"sweep", "bundle"}),
        ('sweep.payload="raw"', EVERY - BEFORE),
        ("sweep.no_excess_loss=true", {"sweep", "bundle"}),
        ("export.golden_examples=3", {"bundle"}),
        ('export.engines="tflm"', {"bundle"}),
        ("export.arena_margin=0.2", EVERY - {"cloud"}),  # what does not fit with it is not searched
    ],
)
def test_what_a_change_makes_again(tmp_path, npz, change, made_again):
    set_data = f'data.name="{npz}"'
    before = Run(tmp_path, run_spec(assignments=[set_data])).keys
    after = Run(tmp_path, run_spec(assignments=[set_data, change])).keys
    assert {name for name in before if before[name] != after[name]} == made_again


@pytest.mark.parametrize(
    ("change", "made_again"),
    [
        ("search.probe_epochs=3", True),
        ("train.edge_learning_rate=0.1", True),
        ("train.mixup=0.2", True),
        ("search.rows=500", True),
        ("cloud.epochs=9", True),
        ("train.edge_epochs=9", False),
        ("train.rounds=3", False),
        ("search.macs_exponent=0.3", False),
        ("search.min_coverage=0.9", False),
        ("clouds=[{width=16}]", False),
    ],
)
def test_when_probes_are_trained_again(tmp_path, npz, change, made_again):
    asked = [f'data.name="{npz}"', "search.probes=3"]
    before = Run(tmp_path, run_spec(assignments=asked)).keys
    after = Run(tmp_path, run_spec(assignments=[*asked, change])).keys
    assert (before["probes"] != after["probes"]) is made_again


@pytest.mark.parametrize(
    ("kind", "change"),
    [("net", "look.share=0.3"), ("net", "look.nets=2"), ("exit", "look.share=0.3"), ("exit", "look.exit_after=1")],
)
def test_what_the_looks_take_is_a_question_of_the_search(tmp_path, npz, kind, change):
    looks = [f'data.name="{npz}"', f'look.kind="{kind}"']
    before = Run(tmp_path, run_spec(assignments=looks)).keys
    after = Run(tmp_path, run_spec(assignments=[*looks, change])).keys
    assert {name for name in before if before[name] != after[name]} == EVERY - {"cloud"}
    given = [*looks, 'search.arch="mine.toml"']
    assert Run(tmp_path, run_spec(assignments=given)).keys != Run(tmp_path, run_spec(assignments=[*given, change])).keys


def test_a_further_cloud_is_trained_beside_the_first_and_asks_a_new_question(tmp_path, npz):
    set_data = f'data.name="{npz}"'
    before = Run(tmp_path, run_spec(assignments=[set_data])).keys
    more = ["clouds=[{width=16}, {width=16, latency_ms=3.0}]"]
    after = Run(tmp_path, run_spec(assignments=[set_data, *more])).keys
    assert set(after) - set(before) == {"cloud_1", "cloud_2"}
    assert after["cloud_1"] == after["cloud_2"] != after["cloud"]  # where a cloud runs changes no answer
    assert {name for name in before if before[name] != after[name]} == EVERY - BEFORE


def test_a_given_net_needs_no_search_and_so_no_link(tmp_path, npz):
    given = [f'data.name="{npz}"', 'search.arch="mine.toml"']
    before = Run(tmp_path, run_spec(assignments=given)).keys
    for change, again in (('link="wifi"', {"sweep", "bundle"}), ('device="stm32l4r5"', EVERY - BEFORE)):
        after = Run(tmp_path, run_spec(assignments=[*given, change])).keys
        assert {name for name in before if before[name] != after[name]} == again


@pytest.mark.parametrize(("key", "stage"), [("cloud.table", "cloud"), ("search.arch", "search")])
def test_another_content_of_a_file_that_the_spec_names_counts_as_a_change(tmp_path, npz, key, stage):
    named = tmp_path / "named"
    run = Run(tmp_path / "run", run_spec(assignments=[f'data.name="{npz}"', f'{key}="{named}"']))
    named.write_bytes(b"one")
    before = run.keys
    named.write_bytes(b"two")
    assert Run(tmp_path / "run", replace(run.spec)).keys[stage] != before[stage]


def test_a_link_of_one_s_own_counts_also_where_a_shipped_one_has_its_name(tmp_path, npz):
    mine = tmp_path / "lte.toml"

    def keys(rtt_mean_ms):
        mine.write_text(to_toml(replace(profiles.link("lte"), rtt_mean_ms=rtt_mean_ms)))
        given = [f'data.name="{npz}"', 'search.arch="mine.toml"', f'link="{mine}"']
        run = Run(tmp_path / "run", run_spec(assignments=given))
        assert run.links["lte"].rtt_mean_ms == rtt_mean_ms
        assert next(iter(run.links.values())) is run.link
        return run.keys

    before, after = keys(5000.0), keys(9000.0)
    assert {name for name in before if before[name] != after[name]} == {"sweep", "bundle"}


# Killed, resumed, and the same bytes


@pytest.fixture(scope="module")
def npz(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "stripes.npz"
    x, y = stripes()
    np.savez(path, x=x, y=y)
    return path


# The bundle, checked, served and emulated


def test_verify(folder):
    out, err = apart("verify", folder / "bundle")
    assert err == ""
    assert "8 golden examples, all exact" in out


@pytest.mark.parametrize("path", ["edge.tflite", "golden/golden.json", "firmware/hybrid_decide.h", "manifest.json"])
def test_verify_finds_a_flipped_bit(folder, tmp_path, path):
    bundle = Path(shutil.copytree(folder / "bundle", tmp_path / "bundle"))
    content = bytearray((bundle / path).read_bytes())
    content[len(content) // 2] ^= 1
    (bundle / path).write_bytes(content)
    _, err = hybrid("verify", bundle, code=2)
    assert err.startswith("error: ")
    assert err.count("\n") == 1


@pytest.fixture(scope="module")
def url(folder):
    """Where the bundle's cloud is served; at the end the server must leave without a complaint."""
    with subprocess.Popen(
        command("serve", folder / "bundle", "--port", "0"),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process.stdout.readline().split()[-1]
        finally:
            process.send_signal(signal.SIGINT)
        _, err = process.communicate()
    assert process.returncode == 0
    assert err == ""


def test_the_served_cloud_answers_as_predicted(url, manifest, predicted, test_split):
    """A client's tensors and a device's frames get the class that the run counted on."""
    found, rows = predicted["test"], range(0, TEST, 100)
    model = bytes.fromhex(manifest["models"]["edge"]["sha256"])[:8]
    expected = found["cloud_scores"][rows].argmax(axis=1)
    scores = infer(url, test_split.x[rows])
    answers = [query(url, test_split.x[row], found, row, model) for row in rows]
    assert np.allclose(scores, found["cloud_scores"][rows], atol=1e-3)
    assert scores.argmax(axis=1).tolist() == expected.tolist()
    assert [answer["class"] for answer in answers] == expected.tolist()


def infer(url, pixels):
    with triton.InferenceServerClient(url.split("/")[2]) as client:
        tensor = triton.InferInput("input", pixels.shape, "UINT8")
        tensor.set_data_from_numpy(pixels)
        return client.infer("cloud", [tensor]).as_numpy("scores")


def query(url, pixels, found, row, model):
    frame = encode_payload(
        Query(
            pixels=pixels,
            edge_class=int(found["edge_logits"][row].argmax()),
            score=int(found["router_score"][row]),
            model=model,
        ),
        "packed",
    )
    request = urllib.request.Request(f"{url}/query", frame, {"Content-Type": "application/cbor"})
    with urllib.request.urlopen(request) as answer:
        return cbor2.loads(answer.read())


EMULATED = 40
"""Test images for the emulated device."""
needs_emulator = pytest.mark.skipif(
    programs.missing() is not None or device_engine() != "tflite-micro", reason="needs QEMU and tflite-micro"
)


@needs_emulator
def test_the_emulated_hybrid_reaches_exactly_what_the_sweep_predicts(folder, url, manifest, predicted):
    """The bundle's C on an emulated Cortex-M7 keeps or asks the served cloud over its serial line."""
    out, err = hybrid("emulate", folder / "bundle", "--images", EMULATED, "--gateway", url, "--json")
    values, threshold = json.loads(out), manifest["chosen"]["threshold"]
    loop, first = values["gateway"], {key: found[:EMULATED] for key, found in predicted["test"].items()}
    coverage, accuracy = hand_made(first, threshold)
    assert (values["exact"], values["differences"], err) == (True, [], "")
    assert loop["accuracy"] == loop["predicted_accuracy"] == accuracy
    assert (loop["kept"], loop["answered"], loop["unanswered"]) == (
        round(coverage * EMULATED),
        EMULATED - round(coverage * EMULATED),
        0,
    )
    assert loop["answered"] > 0


@needs_emulator
def test_a_bundle_is_not_measured_by_another_run(copied):
    spec = copied / "spec.toml"
    spec.write_text(spec.read_text().replace("limit = 1300", "limit = 1200"))
    _, err = hybrid("emulate", copied / "bundle", code=2)
    assert "this run went on since the bundle was made, with other data, nets or routers; hybrid export makes" in err


@needs_emulator
def test_more_images_than_the_test_split_has(folder):
    _, err = hybrid("emulate", folder / "bundle", "--images", TEST + 1, code=2)
    assert err == "error: images: got 1,001, the test split has 1,000\n"
