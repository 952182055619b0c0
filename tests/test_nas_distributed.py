"""A search on several machines, here several processes: real chiefs and workers, killed at the worst moments.

The processes are forked from a server that has loaded TensorFlow once; the journal and small files tell how far they
are.
"""

import json
import multiprocessing
import os
import resource
import signal
import socket
import sys
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from hybrid.errors import SpecError
from nas.candidate import Candidate, PairScore
from nas.distributed import role
from nas.ledger import from_text
from nas.oracle import explore
from nas.space import Choices, Space

SPACE = Space(
    input_shape=(8, 8, 1),
    num_classes=3,
    stem=Choices(width=(4, 8), stride=(1, 2)),
    stages=(Choices(kind=("conv", "ds"), width=(4, 8, 12), kernel=(3, 5)), Choices(width=(8, 16), kernel=(3, 5))),
    num_stages=(1, 2),
)
TRIALS = 40
DEADLINE_S = 60.0
PROCESSES = multiprocessing.get_context("forkserver")


def price(arch):
    width = sum(block.width for block in arch.blocks)
    return Candidate(arch=arch, macs=width, flash_bytes=width, peak_sram_bytes=width, latency_ms=width / 3)


def score(candidate):
    accuracy = candidate.macs / 100 + candidate.arch.blocks[0].stride / 3000
    return PairScore(
        cloud=1,
        edge_accuracy=accuracy / 7,
        hybrid_accuracy=accuracy,
        mendable=0.0,
        expected_accuracy=accuracy,
        bound=1.0,
        coverage=0.7,
        mean_latency_ms=1 / 3,
    )


def slowly(candidate):
    """Long enough that no worker does all alone."""
    time.sleep(0.02)
    return score(candidate)


def never(candidate):
    """Leave word of the trial that was begun, and never return."""
    Path(f"begun{os.getpid()}").write_text(candidate.arch.name)
    signal.pause()


def broken(candidate):
    raise MemoryError("no room")


def note(tuner_id):
    """Write down what a process is told: one name a line."""

    def told(candidate):
        with Path(f"{tuner_id}.told").open("a") as file:
            print(candidate.arch.name, file=file)

    return told


def take_part(tuner_id, port, folder, changes):
    """What each process runs: its lines go to ``<tuner_id>.out``, its result or error to ``<tuner_id>.json``."""
    os.chdir(folder)
    output = os.open(f"{tuner_id}.out", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ |= {
        "KERASTUNER_TUNER_ID": tuner_id,
        "KERASTUNER_ORACLE_IP": "127.0.0.1",
        "KERASTUNER_ORACLE_PORT": str(port),
    }
    if size := changes.pop("largest_file", 0):
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    asked = {"space": SPACE, "price": price, "score": slowly, "trials": TRIALS, "seed": 5, "identity": "toy"}
    asked |= {"folder": Path(tuner_id), "lease_s": 1.0, "patience_s": 20.0, "told": note(tuner_id)} | changes
    try:
        result = [candidate.arch.name for candidate in explore(asked.pop("space"), **asked)]
    except Exception as exc:
        result = f"{type(exc).__name__}: {exc}"
    Path(f"{tuner_id}.json").write_text(json.dumps(result))


class Cluster:
    """Processes that share a folder and a port."""

    def __init__(self, folder):
        self.folder, self.port, self.processes = folder, free_port(), []

    def start(self, tuner_id, **changes):
        target = PROCESSES.Process(target=take_part, args=(tuner_id, self.port, self.folder, changes))
        target.start()
        self.processes.append(target)
        return target

    def kill(self, process):
        os.kill(process.pid, signal.SIGKILL)
        process.join()

    def result(self, process, tuner_id):
        """Wait for the end of a process; what it returned or raised."""
        process.join(DEADLINE_S)
        assert process.exitcode == 0, (self.folder / f"{tuner_id}.out").read_text()
        return json.loads((self.folder / f"{tuner_id}.json").read_text())

    def told(self, tuner_id):
        """Names of the nets that a process was told of: of a worker, those that it scored."""
        return (self.folder / f"{tuner_id}.told").read_text().split()

    def journal(self):
        """Whole entries of the chief's journal."""
        path = self.folder / "chief" / "journal.jsonl"
        lines = path.read_text().splitlines(keepends=True)[1:] if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def scored(self):
        return [entry["trial"] for entry in self.journal() if entry["candidate"]["status"] == "scored"]

    def begun(self, process):
        """Name of the net that a worker began and will never finish, or None."""
        path = self.folder / f"begun{process.pid}"
        return path.read_text() if path.exists() else None

    def until(self, condition):
        deadline = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < deadline, [p.read_text()[-2000:] for p in self.folder.glob("*.out")]
            time.sleep(0.01)


def free_port():
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    PROCESSES.set_forkserver_preload(["nas.oracle", "nas.distributed"])
    cluster = Cluster(tmp_path)
    yield cluster
    for process in cluster.processes:
        process.kill()
        process.join()


def test_every_trial_is_scored_once_though_workers_and_chief_are_killed(cluster):
    chief, doomed = cluster.start("chief"), cluster.start("tuner0", score=never)
    cluster.until(lambda: cluster.begun(doomed))
    cluster.kill(doomed)  # in the middle of a trial, which another gets when its lease is over
    workers = {"tuner1": cluster.start("tuner1"), "tuner2": cluster.start("tuner2")}

    cluster.until(lambda: len(cluster.scored()) >= 10)
    cluster.kill(chief)
    before = cluster.scored()
    chief = cluster.start("chief")

    names = cluster.result(chief, "chief")
    assert [cluster.result(process, name) for name, process in workers.items()] == [[], []]  # the chief has them
    done = {name: set(cluster.told(name)) for name in workers}
    scored = cluster.scored()
    assert scored[: len(before)] == before
    assert sorted(scored) == list(range(TRIALS))
    assert all(done.values())
    assert done["tuner1"] | done["tuner2"] == set(names)
    assert cluster.begun(doomed) in names
    assert [path.read_text() for path in cluster.folder.glob("*.out")] == [""] * 4  # keras-tuner printed nothing
    for candidate in (from_text(json.dumps(entry["candidate"])) for entry in cluster.journal()):
        assert candidate.latency_ms == price(candidate.arch).latency_ms
        assert candidate.score in (None, score(candidate))  # to the last digit


def test_new_workers_finish_what_dead_ones_left(cluster):
    chief = cluster.start("chief", trials=3)
    dead = [cluster.start(f"dead{number}", score=never) for number in range(2)]
    for process in dead:
        cluster.until(lambda process=process: cluster.begun(process))
        cluster.kill(process)
    worker = cluster.start("tuner0")
    assert len(cluster.result(chief, "chief")) == 3
    assert cluster.result(worker, "tuner0") == []
    assert len(cluster.told("tuner0")) == 3


def test_a_worker_of_another_search_is_refused_and_loses_no_trial(cluster):
    chief = cluster.start("chief", trials=4)
    wider = replace(SPACE, stem=Choices(width=(4, 8, 12), stride=(1, 2)))
    strangers = {"other0": {"identity": "other"}, "other1": {"space": wider}}
    for name, changes in strangers.items():
        message = cluster.result(cluster.start(name, **changes), name)
        assert message.startswith(
            f"SpecError: chief at 127.0.0.1:{cluster.port}: searches another space, or for another"
        )
    assert cluster.scored() == []
    worker = cluster.start("tuner0")
    names = cluster.result(chief, "chief")
    cluster.result(worker, "tuner0")
    assert sorted(cluster.told("tuner0")) == sorted(names)
    assert len(names) == 4


def test_a_chief_that_cannot_bind_says_so(cluster):
    with closing(socket.create_server(("127.0.0.1", cluster.port))):
        message = cluster.result(cluster.start("chief"), "chief")
    assert message.startswith(f"ClusterError: chief: cannot listen on 127.0.0.1:{cluster.port} ([Errno 98] Address")
    assert message.endswith("set KERASTUNER_ORACLE_IP and _PORT to a free address of this machine")
    assert (cluster.folder / "chief.out").read_text().count("Traceback") == 0


def test_two_chiefs_do_not_share_a_port(cluster):
    first = cluster.start("chief", trials=1)
    cluster.until(lambda: can_connect(cluster.port))
    message = cluster.result(cluster.start("chief2"), "chief2")
    assert "cannot listen" in message
    cluster.start("tuner0")
    assert len(cluster.result(first, "chief")) == 1


def can_connect(port):
    with closing(socket.socket()) as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_a_worker_waits_a_bounded_time_for_its_chief(cluster):
    message = cluster.result(cluster.start("tuner0", patience_s=0.5), "tuner0")
    what = "no answer for 0.5 s; it has finished, or is not there; start it, or check KERASTUNER_ORACLE_IP and _PORT"
    assert message == f"ClusterError: chief at 127.0.0.1:{cluster.port}: {what}"


def test_an_error_in_scoring_ends_the_worker_and_after_three_the_search(cluster):
    chief = cluster.start("chief", lease_s=600.0)
    for name in ("tuner0", "tuner1", "tuner2"):
        assert cluster.result(cluster.start(name, score=broken), name) == "MemoryError: no room"
    message = cluster.result(chief, "chief")
    assert message.startswith("ClusterError: trial 0 (edge-")
    assert "failed 3 times, last with MemoryError: no room; mend that, then start the chief again" in message


def test_a_full_disk_ends_the_chief_and_its_workers_with_one_line_each(cluster):
    chief, worker = cluster.start("chief", largest_file=9000), cluster.start("tuner0")
    message = cluster.result(chief, "chief")
    assert message.startswith("SpecError: chief/journal.jsonl: cannot be written (File too large); make room")
    stopped = cluster.result(worker, "tuner0")
    assert stopped == f"ClusterError: chief at 127.0.0.1:{cluster.port} has stopped: {message.partition(': ')[2]}"


@pytest.mark.parametrize(
    ("variables", "complaint"),
    [
        ({"KERASTUNER_ORACLE_IP": "127.0.0.1"}, "KERASTUNER_TUNER_ID, KERASTUNER_ORACLE_PORT: not set, but"),
        (
            {"KERASTUNER_ORACLE_IP": "::1", "KERASTUNER_TUNER_ID": "chief", "KERASTUNER_ORACLE_PORT": "ninety"},
            "KERASTUNER_ORACLE_PORT: got 'ninety', allowed 1 to 65535",
        ),
    ],
)
def test_variables_that_contradict_each_other_are_refused(variables, complaint, monkeypatch):
    assert role() == "alone"
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SpecError, match=complaint):
        role()
