"""One story from end to end, through the command itself: data in, bundle and report out, resumed, served, verified."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import cbor2
import numpy as np
import pytest
from PIL import Image
from tritonclient import http as triton

from datasets import load
from firmware_export.payload import Query, encode_payload
from hybrid.configure import run_spec
from hybrid.device_router import StoredOutputs
from hybrid.pipeline import Run
from hybrid.pipeline.storage import read_routed

ROOT = Path(__file__).parents[1]
LATE = {"router", "predict", "sweep", "bundle"}
STAGES = ("cloud", "supernet", "search", "edge", "alternate", "quantize", "router", "predict", "sweep")
PREDICTIONS = ("labels", "edge_logits", "router_score", "cloud_scores", "stage")
EVERY = {*STAGES, "question", "look", "folds", "bundle"}
ASKED = {"question", "search"}
BEFORE = {"cloud", "supernet"}
TRIALS = 6
TINY = f"""
[search]
trials = {TRIALS}
supernet_epochs = 1
supernet_rows = 500
[cloud]
width = 8
epochs = 1
[train]
edge_epochs = 1
batch_size = 64
[router]
epochs = 3
teachers = 1
teacher_epochs = 2
students = 1
[quantize]
representative_rows = 50
[export]
golden_examples = 8
"""
STORY = (
    *("--set", "data.limit=1500"),
    *("--set", "data.calibration_fraction=0.02"),
    *("--set", "data.validation_fraction=0.02"),
    *("--set", 'quantize.methods=["ptq"]'),
)


def command(*words):
    return [sys.executable, "-m", "hybrid.cli", *map(str, words)]


def hybrid(*words, code=0):
    """Run the command, which must end with `code`; gives standard output and standard error."""
    done = subprocess.run(command(*words), cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    return done.stdout, done.stderr


def stripes(n=500, classes=4, size=12):
    """Noisy grey images with a stripe where the class says, ``(n, size, size)``, and their labels."""
    rng = np.random.default_rng(1)
    y = np.arange(n) % classes
    x = rng.integers(0, 200, (n, size, size))
    x[np.arange(n), y * size // classes] += 55
    return x.astype(np.uint8), y


def stamps(folder):
    """When each stage was made."""
    return {name: (folder / name / ".stage.json").stat().st_mtime_ns for name in STAGES}


def tree(folder):
    """Every file below `folder` and its bytes."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def read(path):
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    path = tmp_path_factory.mktemp("spec") / "tiny.toml"
    path.write_text(TINY)
    return path


@pytest.fixture(scope="module")
def story(tmp_path_factory, spec):
    """A finished run on Fashion-MNIST: its folder, and what the command said."""
    folder = tmp_path_factory.mktemp("story") / "run"
    return folder, *hybrid("run", "--out", folder, "--spec", spec, *STORY)


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
def test_split():
    return load("fashion_mnist", limit=1500, calibration_fraction=0.02, validation_fraction=0.02).test


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
    assert made.data.limit == 1500
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


def test_chosen_threshold_by_hand(summary, predicted):
    coverage, accuracy = hand_made(predicted["test"], summary["hybrid"]["threshold"])
    assert summary["hybrid"]["coverage"] == pytest.approx(coverage)
    assert summary["hybrid"]["accuracy"] == pytest.approx(accuracy)


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
    found, rows = predicted["test"], range(0, 10_000, 25)
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


def test_a_limit_that_no_threshold_holds(copied):
    before, bundle = stamps(copied), tree(copied / "bundle")
    _, err = hybrid("run", "--out", copied, "--min-accuracy", "0.9999", code=2)
    assert err.startswith("error: sweep: min_accuracy = 0.9999 cannot be certified with confidence 0.9 on 1,200 ")
    assert "the cloud alone reaches 0." in err
    _, unguarded = hybrid("run", "--out", copied, "--min-accuracy", "0.9999", "--confidence", "0", code=2)
    assert unguarded.startswith("error: sweep: no operating point holds min_accuracy = 0.9999; nearest: highest acc")
    assert err.count("\n") == 1
    assert (stamps(copied), tree(copied / "bundle")) == (before, bundle)
    assert not list(copied.rglob("*.partial"))


@pytest.mark.parametrize(
    ("change", "made_again"),
    [
        ("seed=1", {*EVERY}),
        ("data.limit=300", {*EVERY}),
        ("cloud.epochs=9", EVERY),  # the supernet learns from the cloud, and pairs are scored with it
        ("search.supernet_epochs=9", EVERY - {"cloud"}),
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
        ('sweep.payload="raw"', {"sweep", "bundle"}),
        ("sweep.no_excess_loss=true", {"sweep", "bundle"}),
        ("export.golden_examples=3", {"bundle"}),
    ],
)
def test_what_a_change_makes_again(tmp_path, npz, change, made_again):
    set_data = f'data.name="{npz}"'
    before = Run(tmp_path, run_spec(assignments=[set_data])).keys
    after = Run(tmp_path, run_spec(assignments=[set_data, change])).keys
    assert {name for name in before if before[name] != after[name]} == made_again


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


# Killed, resumed, and the same bytes


@pytest.fixture(scope="module")
def npz(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "stripes.npz"
    x, y = stripes()
    np.savez(path, x=x, y=y)
    return path


def in_journal(folder):
    """The scored candidates in the journal of a search that is not done."""
    paths = list(folder.glob(".search-*.scratch/journal.jsonl"))
    lines = paths[0].read_text().splitlines(keepends=True)[1:] if paths else []
    entries = [json.loads(line)["candidate"] for line in lines if line.endswith("\n")]
    return [candidate for candidate in entries if candidate["status"] == "scored"]


def untimed(folder):
    """The candidates of a finished search, without the time that their scoring took."""
    return [{**candidate, "seconds": None} for candidate in read(folder / "search/candidates.json")]


def kill_in_the_middle(words, sentence, *, begun=lambda: True):
    """Start the command and kill it as soon as it has said `sentence` and `begun` holds."""
    with subprocess.Popen(command(*words), cwd=ROOT, stdout=subprocess.PIPE, text=True) as job:
        next(line for line in job.stdout if line.startswith(sentence))
        while not begun() and job.poll() is None:
            time.sleep(0.002)
        job.send_signal(signal.SIGKILL)


def test_a_killed_run_goes_on_and_one_seed_gives_the_same_bytes(tmp_path, spec, npz):
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    asked = ("--dataset", npz, "--spec", spec)
    kill_in_the_middle(("search", "--out", killed, *asked), "Search:", begun=lambda: in_journal(killed))
    assert (killed / ".search.partial").is_dir()
    scored = in_journal(killed)
    assert 0 < len(scored) < TRIALS
    kill_in_the_middle(("run", "--out", killed, *asked), "Quantisation:")
    assert (killed / ".quantize.partial").is_dir()
    assert in_journal(killed)[: len(scored)] == scored  # it stays, so that a finished search can be prolonged
    early = [name for name in STAGES if (killed / name).is_dir()]
    assert early == ["cloud", "supernet", "search", "edge", "alternate"]
    made = {name: (killed / name / ".stage.json").stat().st_mtime_ns for name in early}
    found = read(killed / "search/candidates.json")
    assert [c for c in found if c["status"] == "scored"][: len(scored)] == scored  # not again: the seconds are the same

    hybrid("run", "--out", killed, *asked)
    hybrid("run", "--out", whole, *asked)
    assert not list(killed.rglob("*.partial"))
    assert {name: stamps(killed)[name] for name in early} == made
    assert untimed(killed) == untimed(whole)
    assert read(killed / "search/pareto.json")
    assert read(killed / "summary.json")["run_seconds"] is None
    assert read(whole / "summary.json")["run_seconds"] > 0  # all of it in one go
    ours, others = tree(killed / "bundle"), tree(whole / "bundle")
    assert set(ours) == set(others)
    differ = {path for path in ours if ours[path] != others[path]}
    assert not [path for path in differ if not path.startswith("cloud/models/") and path != "manifest.json"]
    assert ours["edge.tflite"] == others["edge.tflite"]


@pytest.mark.slow
def test_chief_and_worker_search_from_their_own_run_folders(tmp_path, spec, npz):
    """They find the same supernet by the same seed; the worker scores all, and the chief has the results."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    jobs = {}
    for name in ("chief", "tuner0"):
        variables = {"TUNER_ID": name, "ORACLE_IP": "127.0.0.1", "ORACLE_PORT": str(port)}
        jobs[name] = subprocess.Popen(
            command("search", "--out", tmp_path / name, "--dataset", npz, "--spec", spec),
            cwd=ROOT,
            env=os.environ | {f"KERASTUNER_{key}": value for key, value in variables.items()},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    said = {name: job.communicate() for name, job in jobs.items()}
    assert [job.returncode for job in jobs.values()] == [0, 0], said
    assert [err for _, err in said.values()] == ["", ""]
    assert f"Pareto set of {TRIALS} pairs" in said["chief"][0]
    assert said["tuner0"][0].splitlines()[-1].startswith("search: this worker has nothing left to do; the chief")
    assert (tmp_path / "chief/search/edge.toml").is_file()
    assert not (tmp_path / "tuner0/search").exists()

    hybrid("search", "--out", tmp_path / "alone", "--dataset", npz, "--spec", spec)
    alone, together = (
        {c["arch"]["name"]: c["score"] for c in untimed(tmp_path / name) if c["score"]} for name in ("alone", "chief")
    )
    assert len(together) == TRIALS
    both = alone.keys() & together.keys()  # the first generation at least
    assert both
    assert all(alone[name] == together[name] for name in both)


def test_a_black_box_and_an_image_folder(tmp_path, spec):
    """The table is always right: on probabilities, a one-hot row is a certain answer."""
    pictures = tmp_path / "pictures"
    for index, (image, label) in enumerate(zip(*stripes(300), strict=True)):
        path = pictures / "abcd"[label] / f"{index:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    splits = load(str(pictures)).splits
    table = tmp_path / "table.npz"
    np.savez(table, **{name: np.eye(4)[splits[name].y] for name in ("calibration", "validation", "test")})
    run = tmp_path / "run"
    words = ("--set", 'cloud.kind="table"', "--set", f'cloud.table="{table}"', "--set", 'quantize.methods=["ptq"]')
    out, err = hybrid("run", "--out", run, "--dataset", pictures, "--spec", spec, *words)
    assert err == ""
    assert "Data: pictures, 4 classes" in out
    summary = read(run / "summary.json")
    assert summary["cloud_accuracy"] == 1
    cloud_files = [path for path in tree(run / "bundle") if path.startswith("cloud/")]
    assert sorted(cloud_files) == ["cloud/README.md", "cloud/endpoint.toml"]
    hybrid("verify", run / "bundle")
    _, err = hybrid("serve", run / "bundle", "--port", "0", code=2)
    assert "black box" in err
    assert err.count("\n") == 1


def test_of_two_clouds_the_search_takes_the_one_that_suits(tmp_path, spec, npz):
    """The first is trained here and takes a minute to answer; the further one knows everything, at once."""
    out, table = tmp_path / "run", tmp_path / "table.npz"
    splits = load(str(npz), validation_fraction=0.3).splits
    np.savez(table, **{name: np.eye(4)[splits[name].y] for name in ("calibration", "validation", "test")})
    asked = ("--dataset", npz, "--spec", spec, "--set", "data.validation_fraction=0.3", "--trials", "3")
    clouds = ("cloud.latency_ms=60000", f'clouds=[{{kind="table", table="{table}", latency_ms=1.0}}]')
    budget = ("--link", "ble", "--max-latency-ms", "150")
    said, _ = hybrid("search", "--out", out, *asked, *budget, *(word for one in clouds for word in ("--set", one)))
    assert f"table {table}" in " ".join(said.split())
    assert "Pareto set of 3 pairs at a mean latency of 150 ms or less; * is chosen" in said.replace("\u00a0", " ")
    scores = [pair["score"] for pair in read(out / "search/candidates.json") if pair["score"]]
    assert {score["cloud"] for score in scores} == {1}
    assert all(score["mean_latency_ms"] <= 150 for score in scores)

    chosen = run_spec(paths=[out / "spec.toml"])
    assert chosen.search.max_latency_ms == chosen.sweep.max_latency_ms == 150
    later = Run(out, chosen)
    assert later.pair.cloud == chosen.clouds[0]
    assert later.trained.cloud_net is None
    assert later.swept.test.cloud_right.all()
    assert later.swept.points[0].cloud == "own"
    assert later.swept.chosen.mean_latency_ms <= 150
    assert (out / "cloud/cloud_weights.npz").is_file()
    assert not (out / "cloud_1/cloud_weights.npz").exists()


# The bundle, checked and served


def test_verify(folder):
    out, err = hybrid("verify", folder / "bundle")
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


def test_the_served_cloud_answers_as_predicted(folder, manifest, predicted, test_split):
    """A client's tensors and a device's frames get the class that the run counted on."""
    found, rows = predicted["test"], range(0, 10_000, 1000)
    model = bytes.fromhex(manifest["models"]["edge"]["sha256"])[:8]
    expected = found["cloud_scores"][rows].argmax(axis=1)
    with subprocess.Popen(
        command("serve", folder / "bundle", "--port", "0"),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            url = process.stdout.readline().split()[-1]
            scores = infer(url, test_split.x[rows])
            answers = [query(url, test_split.x[row], found, row, model) for row in rows]
        finally:
            process.send_signal(signal.SIGINT)
        _, err = process.communicate()
    assert process.returncode == 0
    assert err == ""
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
            pixels=pixels.ravel(),
            edge_class=int(found["edge_logits"][row].argmax()),
            score=int(found["router_score"][row]),
            model=model,
        )
    )
    request = urllib.request.Request(f"{url}/query", frame, {"Content-Type": "application/cbor"})
    with urllib.request.urlopen(request) as answer:
        return cbor2.loads(answer.read())
