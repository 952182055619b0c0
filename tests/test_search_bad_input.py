"""What goes wrong around a search is told early and in one line, with a way out that works; nothing scored is lost."""

import json
import shutil
import socket

import numpy as np
import pytest

from hybrid.artifacts import Floats
from hybrid.configure import run_spec, to_toml
from hybrid.errors import CloudError, ClusterError, HybridError, SpecError
from hybrid.pipeline import Run, searching, storage
from hybrid.pipeline.folder import RunFolder
from hybrid.pipeline.summary import _earlier
from hybrid.progress import Silent
from hybrid.specs import ArchSpec, BlockSpec, CloudSpec
from nas import distributed
from nas import search as nas_search
from nas.candidate import Candidate, PairScore
from nas.growth import Growth
from nas.journal import JOURNAL_FILE, Journal
from nas.score import Judge, Offer
from nas.search import SearchResult
from nas.space import Choices, Space

SPACE = Space(
    input_shape=(12, 12, 1),
    num_classes=3,
    stem=Choices(width=(4, 8), stride=(2,)),
    stages=(Choices(width=(4, 8, 12)),),
    num_stages=(1,),
)
EDGE = ArchSpec(name="edge-a", input_shape=(12, 12, 1), num_classes=3, blocks=(BlockSpec(kind="conv", width=4),))
SCORE = PairScore(
    cloud=0,
    edge_accuracy=0.7,
    hybrid_accuracy=0.8,
    mendable=0.0,
    expected_accuracy=0.8,
    bound=0.85,
    coverage=0.7,
    mean_latency_ms=9.0,
)
FOUND = Candidate(
    arch=EDGE, macs=100, flash_bytes=200, peak_sram_bytes=300, latency_ms=1.0, score=SCORE, status="scored"
)
RESULT = SearchResult(edge=EDGE, cloud=CloudSpec(), candidates=(FOUND,), front=(FOUND,))


def stripes(path, n=500):
    """An .npz of noisy grey images with a stripe where the class says."""
    rng, y = np.random.default_rng(1), np.arange(n) % 3
    x = rng.integers(0, 200, (n, 12, 12))
    x[np.arange(n), 4 * y] += 55
    np.savez(path, x=x.astype(np.uint8), y=y)
    return path


def run_of(folder, data, *assignments):
    tiny = ("search.trials=2", "search.rows=100", "search.supernet_epochs=1", "cloud.width=4", "cloud.epochs=1")
    return Run(folder, run_spec(assignments=(f'data.name="{data}"', *tiny, *assignments)))


class Said(Silent):
    """Remembers the sentences."""

    def __init__(self):
        self.lines = []

    def say(self, text):
        self.lines.append(text)


# A finished search


@pytest.mark.parametrize("name", ["edge.toml", "cloud.toml", "candidates.json", "pareto.json"])
def test_a_damaged_file_of_a_finished_search_is_named_with_the_folder_to_delete(tmp_path, name):
    nas_search.write(RESULT, tmp_path)
    path = tmp_path / name
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(SpecError, match=rf"{name}.*; delete {tmp_path}, then give .*: what was scored is kept"):
        nas_search.read(tmp_path)
    path.unlink()
    with pytest.raises(SpecError, match=rf"{name}: cannot be read.*; delete {tmp_path}"):
        nas_search.read(tmp_path)


def test_a_stage_keeps_the_scratch_folder_that_it_may_need_again(tmp_path):
    folder = RunFolder(tmp_path)
    kept, left = (folder.scratch("search", key) for key in ("a", "b"))
    for path in (kept, left):
        path.mkdir()
    folder.stage("search", "key", lambda work: None, keep=kept)
    assert kept.is_dir()
    assert not left.exists()
    folder.stage("search", "another key", lambda work: None)
    assert not kept.exists()


def test_a_journal_of_another_question_is_called_so_whatever_is_in_it(tmp_path):
    Journal(tmp_path, identity="mine").close()
    with (tmp_path / JOURNAL_FILE).open("a") as file:
        file.write('{"written": "by another version"}\n')
    with pytest.raises(SpecError, match="holds the search of another space"):
        Journal(tmp_path, identity="yours")
    with pytest.raises(SpecError, match="line 2"):
        Journal(tmp_path, identity="mine")


def test_two_processes_do_not_make_stages_in_one_folder(tmp_path):
    first, second = RunFolder(tmp_path), RunFolder(tmp_path)

    def make(folder):
        first.stage("other", "k", lambda inner: None)  # a stage may ask for another one
        with pytest.raises(HybridError, match=r"another run is at work here; wait for it, or choose another --out"):
            second.stage("one", "k", lambda inner: None)
        (folder / "file").write_text("made")

    assert (first.stage("one", "k", make) / "file").read_text() == "made"
    assert second.stage("one", "k", lambda inner: None) == tmp_path / "one"  # finished: nothing is to be made


@pytest.mark.parametrize("damage", ["", "[]", '"text"', "{}"])
def test_a_damaged_stamp_counts_as_none(tmp_path, damage):
    folder, made = RunFolder(tmp_path), []
    folder.stage("one", "k", lambda inner: made.append(1))
    assert set(folder.stage_seconds({"one": "k", "two": "k"})) == {"one"}
    assert folder.stage_seconds({"one": "other"}) == {}
    (tmp_path / "one" / ".stage.json").write_text(damage)
    assert folder.stage_seconds({"one": "k"}) == {}
    folder.stage("one", "k", lambda inner: made.append(2))
    assert made == [1, 2]


def test_a_stage_that_was_killed_in_between_does_not_tell_its_last_part_for_all_of_its_time(tmp_path):
    folder = RunFolder(tmp_path)
    folder.scratch("one", "k").mkdir()
    folder.stage("one", "k", lambda inner: None)
    assert folder.reused
    assert folder.stage_seconds({"one": "k"}) == {}


def test_another_net_of_the_same_spec_is_trained_anew(tmp_path):
    """A search that was longer before knows more nets than the spec asks for."""
    (tmp_path / "space.toml").write_text(to_toml(SPACE))
    data, out = stripes(tmp_path / "toy.npz"), tmp_path / "run"
    ours = (f'search.space="{tmp_path / "space.toml"}"', "train.edge_epochs=1", "train.rounds=0")
    run = run_of(out, data, *ours)
    found, _ = run.searched.edge, run.trained
    candidates = run_of(out, data, *ours, "search.trials=6").searched.candidates
    other = next(c.arch for c in candidates if c.score and c.arch != found)
    assert run_of(out, data, *ours).searched.candidates == candidates
    (out / "search" / "edge.toml").write_text(to_toml(other))
    edited = run_of(out, data, *ours)
    assert edited.keys == run.keys
    assert edited.searched.edge == other
    assert edited.trained.arch == other
    assert edited.key("edge") != run.key("edge")


def test_a_search_is_prolonged_and_outlives_damage(tmp_path):
    (tmp_path / "space.toml").write_text(to_toml(SPACE))
    data, out, ours = stripes(tmp_path / "toy.npz"), tmp_path / "run", f'search.space="{tmp_path / "space.toml"}"'
    first = run_of(out, data, ours).searched
    assert len(first.candidates) == 2

    longer = run_of(out, data, ours, "search.trials=3").searched
    assert longer.candidates[:2] == first.candidates  # with the seconds they took: none was scored again

    (out / "search" / "candidates.json").write_text("[")
    with pytest.raises(SpecError, match="damaged"):
        _ = run_of(out, data, ours, "search.trials=3").searched
    shutil.rmtree(out / "search")
    assert run_of(out, data, ours, "search.trials=3").searched == longer

    said = Said()
    assert len(Run(out, run_of(out, data, ours, "search.trials=9").spec, said).searched.candidates) == 6  # 2 x 3 widths
    assert said.lines[-1].startswith("scored 6 of 9, for no further one was found, 0 did not fit; edge-")

    run = run_of(out, data, ours)
    judge = searching.question(run, [run.cloud(0)[1]]).judge
    before = searching.identity(run, judge, Growth())
    assert searching.identity(run_of(out, data, ours), judge, Growth()) == before
    assert searching.identity(run, judge, Growth(mixing=0.1)) != before  # as learned from other probes
    weights = out / "supernet" / searching.SUPERNET_WEIGHTS
    weights.write_bytes(weights.read_bytes() + b" ")  # as trained by another processor
    assert searching.identity(run, judge, Growth()) != before


def test_who_is_asked_is_part_of_a_search(tmp_path):
    run = run_of(tmp_path / "run", stripes(tmp_path / "toy.npz"))

    def identity(probabilities: Floats, query_ms: float) -> str:
        offer = Offer(probabilities=probabilities, query_ms=query_ms)
        return searching.identity(run, Judge(labels=np.zeros(2, np.int32), offers=(offer,)), Growth())

    said = np.eye(3, dtype=np.float32)[:2]
    assert len({identity(said, 10.0), identity(said[::-1].copy(), 10.0), identity(said, 10.5)}) == 3


# Other steps


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"{"])
def test_damaged_arrays_and_json_say_which_folder_to_delete(tmp_path, content):
    path = tmp_path / "cloud" / "file"
    path.parent.mkdir()
    path.write_bytes(content)
    for read in (storage.read_arrays, storage.read_json):
        with pytest.raises(HybridError, match=rf"{path}: damaged .*; delete {path.parent}, then give the same command"):
            read(path)


def test_a_damaged_summary_is_written_anew(tmp_path):
    path = tmp_path / "summary.json"
    for text in ("", "[1]", "{"):
        path.write_text(text)
        assert _earlier(path) == {}
    path.write_text(json.dumps({"key": "a"}))
    assert _earlier(path) == {"key": "a"}


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", None])
def test_a_damaged_supernet_says_which_folder_to_delete(tmp_path, content):
    from nas.supernet import Supernet

    path = tmp_path / "supernet.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SpecError, match=rf"damaged .*; delete {tmp_path} to train the supernet anew"):
        Supernet(SPACE, seed=0).read(path)


# Before anything is trained


def test_a_black_box_that_cannot_be_used_is_refused_before_a_cloud_is_trained(tmp_path):
    table = tmp_path / "short.npz"
    np.savez(table, calibration=np.zeros(5, int), validation=np.zeros(5, int), test=np.zeros(5, int))
    run = run_of(tmp_path / "run", stripes(tmp_path / "toy.npz"), f'clouds=[{{kind="table", table="{table}"}}]')
    with pytest.raises(CloudError, match=r"short\.npz: calibration: got shape \(5,\), expected \(\d+, 3\) scores"):
        _ = run.searched
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"spec.toml"}


def test_a_chief_that_cannot_listen_says_so_before_anything_is_trained(tmp_path, monkeypatch):
    run = run_of(tmp_path / "run", stripes(tmp_path / "toy.npz"))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        monkeypatch.setenv("KERASTUNER_ORACLE_IP", "127.0.0.1")
        monkeypatch.setenv("KERASTUNER_ORACLE_PORT", str(taken.getsockname()[1]))
        with pytest.raises(SpecError, match="KERASTUNER_TUNER_ID: not set"):
            _ = run.searched
        monkeypatch.setenv("KERASTUNER_TUNER_ID", "chief")
        with pytest.raises(ClusterError, match=r"chief: cannot listen on 127\.0\.0\.1:"):
            _ = run.searched
        monkeypatch.setenv("KERASTUNER_TUNER_ID", "tuner0")
        distributed.check()  # a worker listens nowhere
    assert not (tmp_path / "run").exists()


def test_a_given_net_leaves_no_cloud_to_choose():
    with pytest.raises(SpecError, match=r"clouds: a search chooses one of several, and search\.arch leaves none"):
        run_spec(assignments=['search.arch="edge.toml"', "clouds=[{width=8}]"])


@pytest.mark.parametrize("kinds", ["[]", '["conv", "ds", "conv"]'])
def test_kinds_of_blocks_are_refused_by_their_key(kinds):
    with pytest.raises(SpecError, match=r"search\.kinds: got .*, allowed one or more distinct kinds"):
        run_spec(assignments=[f"search.kinds={kinds}"])


def test_a_given_net_goes_with_the_cloud_as_it_is_asked_for_now(tmp_path):
    (tmp_path / "edge.toml").write_text(to_toml(EDGE))
    data, arch = stripes(tmp_path / "toy.npz"), f'search.arch="{tmp_path / "edge.toml"}"'
    before, slower = (run_of(tmp_path / "run", data, arch, *more) for more in ((), ["cloud.latency_ms=70"]))
    assert before.searched.cloud.latency_ms == 0
    assert slower.searched.cloud == slower.spec.cloud
    changed = {name for name, key in before.keys.items() if key != slower.keys[name]}
    assert changed == {"search", "sweep", "bundle"}  # nothing is trained again


def test_an_exit_behind_the_last_block_is_refused_before_anything_is_trained(tmp_path):
    data = stripes(tmp_path / "stripes.npz")
    run = run_of(tmp_path / "run", data, "look.kind=exit", "look.exit_after=9")
    with pytest.raises(SpecError, match=r"^look\.exit_after: got 9, the search space has nets of at most 5 blocks"):
        run.searched  # noqa: B018
    arch = tmp_path / "edge.toml"
    arch.write_text(to_toml(EDGE))
    run = run_of(tmp_path / "given", data, "look.kind=exit", f'search.arch="{arch}"')
    with pytest.raises(SpecError, match=r"^look\.kind: exit needs two blocks, edge-a has one"):
        run.searched  # noqa: B018
    assert [(tmp_path / name).exists() for name in ("run", "given")] == [False, False]


def test_nets_too_short_for_the_exit_are_not_searched():
    space = Space(
        input_shape=(12, 12, 1),
        num_classes=3,
        stem=Choices(width=(4,)),
        stages=(Choices(width=(4,)), Choices(width=(4,)), Choices(width=(4,))),
        num_stages=(1, 2, 3),
    )
    assert searching.long_enough(space, 0) == space
    assert searching.long_enough(space, 2).num_stages == (2, 3)
