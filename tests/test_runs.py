"""Runs that are killed, ask a black box, choose among clouds, or are shared by machines."""

import json
import os
import signal
import socket
import subprocess
import time
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
from learner_helpers import Stop
from PIL import Image
from run_helpers import ROOT, STAGES, TINY, TRIALS, command, hybrid, read, stamps, stripes, tree

from datasets import load
from hybrid.configure import run_spec
from hybrid.errors import HybridError
from hybrid.pipeline import Run, searching
from hybrid.pipeline.storage import read_arrays
from hybrid.units import percent


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    path = tmp_path_factory.mktemp("spec") / "tiny.toml"
    path.write_text(TINY)
    return path


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
    asked = ("--dataset", npz, "--spec", spec, "--set", 'quantize.methods=["ptq"]')
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


@pytest.fixture
def trained_at_length(tmp_path, spec, npz):
    """Open a run of two probes, three epochs each; it is interrupted after so many steps of training."""

    def opened(name, *, finalists=0, stop=10**9):
        epochs = ("cloud.epochs=3", "search.supernet_epochs=3", "search.probe_epochs=3")
        asked = (f'data.name="{npz}"', "search.probes=2", f"search.finalists={finalists}", *epochs)
        return Run(tmp_path / name, run_spec(paths=[spec], assignments=asked), Stop(after=stop))

    return opened


def cloud_of(run):
    return run.cloud(0)[1].probabilities


def supernet_of(run):
    answers = [run.cloud(0)[1]]
    searching.supernet(run, run.space, answers, searching.question(run, answers).rows)
    return read_arrays(run.folder.root / "supernet/supernet.npz")


def probes_of(run):
    answers = [run.cloud(0)[1]]
    asked = searching.question(run, answers)
    outputs = searching.supernet(run, run.space, answers, asked.rows)
    growth = searching.lessons_of(run, run.space, answers, asked, outputs).growth
    kept = read_arrays(run.folder.root / "probes/right.npz")
    assert len(kept) == 2
    return {**kept, "growth": growth.powers}


STEPS = {"cloud": cloud_of, "supernet": supernet_of, "probes": probes_of}


@pytest.mark.parametrize("step", ["cloud", *(pytest.param(name, marks=pytest.mark.slow) for name in [*STEPS][1:])])
def test_an_interrupted_training_goes_on_within_its_step(trained_at_length, step):
    """It ends like that of an undisturbed run; the run no longer tells its time as its own."""
    whole, make = trained_at_length("whole"), STEPS[step]
    expected = make(whole)
    assert expected.get("growth") != (0.0, 0.2, 0.0, 0.0)
    for earlier in [*STEPS][: [*STEPS].index(step)]:
        STEPS[earlier](trained_at_length("begun"))
    stopped = trained_at_length("begun", stop=8)  # in the second of three epochs of five steps
    with pytest.raises(KeyboardInterrupt):
        make(stopped)
    begun = stopped.folder.root
    first = "probe-1-of-2.npz" if step == "probes" else f"{step}.npz"
    assert [path.name for path in begun.glob(f".{step}-*.scratch/*")] == [first]
    gone_on = trained_at_length("begun")
    got = make(gone_on)
    assert set(got) == set(expected)
    for key, value in expected.items():
        np.testing.assert_array_equal(got[key], value, err_msg=key)
    assert gone_on.folder.reused
    assert not list(begun.glob(f".{step}-*"))
    assert not whole.folder.reused


@pytest.mark.slow
def test_finalists_are_trained_once_and_an_interrupted_search_goes_on_there(trained_at_length):
    """A search of more finalists trains those alone that were none before; the choice is among them."""
    whole = trained_at_length("whole", finalists=2).searched
    assert len(whole.finalists) == 2
    assert whole.chosen in whole.finalists
    rows = dict(searching.chosen_rows(trained_at_length("whole", finalists=2)))
    accuracy = percent(whole.chosen.alone.hybrid_accuracy)
    assert rows["hybrid accuracy, trained on its own for 3 epochs"] == accuracy
    supernet_of(trained_at_length("begun"))
    probes_of(trained_at_length("begun"))
    stopped = trained_at_length("begun", finalists=2, stop=TRIALS + 8)  # in the second epoch of the first finalist
    with pytest.raises(KeyboardInterrupt):
        stopped.searched  # noqa: B018
    (begun,) = stopped.folder.root.glob(".search-*.scratch/finals/*/*.begun")
    assert not list(begun.parent.glob("*.npz"))
    again = trained_at_length("begun", finalists=2).searched
    assert untimed_candidates(again) == untimed_candidates(whole)
    assert not begun.exists()
    kept = {path: path.stat().st_mtime_ns for path in begun.parent.iterdir()}
    assert {path.stem for path in kept} == {c.arch.name for c in again.finalists}
    prolonged = trained_at_length("begun", finalists=3).searched
    assert len(prolonged.finalists) == 3
    assert kept.items() <= {path: path.stat().st_mtime_ns for path in begun.parent.iterdir()}.items()
    next(iter(kept)).write_text("[")
    with pytest.raises(HybridError, match=r"npz: damaged .*; delete .*finals.*, then give the same command again"):
        trained_at_length("begun", finalists=2).searched  # noqa: B018


def untimed_candidates(found):
    return [replace(candidate, seconds=0.0) for candidate in found.candidates]


@pytest.mark.slow
def test_damaged_probes_are_one_line(trained_at_length):
    run = trained_at_length("run")
    probes_of(run)
    (run.folder.root / "probes/right.npz").write_text("[")
    with pytest.raises(HybridError, match=r"right\.npz: damaged .*; delete .*probes, then give the same command again"):
        probes_of(trained_at_length("run"))


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
    words += ("--set", "search.probes=1")
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
    clouds = (
        "cloud.latency_ms=60000",
        f'clouds=[{{kind="table", table="{table}", latency_ms=1.0}}]',
        "search.probes=1",
    )
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
