"""One search on many machines: keras-tuner's chief and workers, with what its own loop lacks.

That loop does not notice that its port is taken, never ends when a worker dies, and lets a worker wait an hour for a
chief that is not there. The messages are keras-tuner's own (`OracleServicer`, `OracleClient`).
"""

import os
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from threading import Event
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any, Literal

import grpc
import keras_tuner
from keras_tuner.engine.trial import Trial, TrialStatus
from keras_tuner.src import protos
from keras_tuner.src.distribute.oracle_chief import OracleServicer
from keras_tuner.src.distribute.oracle_client import OracleClient

from hybrid.errors import ClusterError, HybridError, SpecError
from nas.ledger import Score, Told
from nas.tuner import OBJECTIVE, PairTuner

if TYPE_CHECKING:
    from nas.oracle import PairOracle

VARIABLES = ("KERASTUNER_TUNER_ID", "KERASTUNER_ORACLE_IP", "KERASTUNER_ORACLE_PORT")
IDLE_S = 0.5
"""Pause of a worker that was told to wait, and of one whose chief does not answer."""
LINGER_S = 2.5
"""How long the chief stays after the last question once the search has ended, so that idle workers hear of it."""
Role = Literal["alone", "chief", "worker"]


def role() -> Role:
    """Say what keras-tuner's variables make of this process. Raises: SpecError where they contradict each other."""
    given = [name for name in VARIABLES if name in os.environ]
    if "KERASTUNER_ORACLE_IP" not in given:
        return "alone"
    if missing := [name for name in VARIABLES if name not in given]:
        raise SpecError(
            f"{', '.join(missing)}: not set, but {', '.join(given)} is; a distributed search needs all three"
        )
    port = os.environ["KERASTUNER_ORACLE_PORT"]
    if not port.isdigit() or not 0 < int(port) < 65536:
        raise SpecError(f"KERASTUNER_ORACLE_PORT: got {port!r}, allowed 1 to 65535")
    return "chief" if "chief" in os.environ["KERASTUNER_TUNER_ID"] else "worker"


def address() -> str:
    """Return the chief's ``host:port``."""
    return f"{os.environ['KERASTUNER_ORACLE_IP']}:{os.environ['KERASTUNER_ORACLE_PORT']}"


def serve(oracle: "PairOracle") -> None:
    """Be the chief until all trials have ended.

    Raises: ClusterError where the port cannot be had or a trial fails everywhere; SpecError where the journal fails.
    """
    servicer = _Servicer(oracle)
    # Without so_reuseport=0 a second chief would share the port, and each would see half of the questions.
    server = grpc.server(ThreadPoolExecutor(max_workers=1), options=[("grpc.so_reuseport", 0)])
    protos.get_service_grpc().add_OracleServicer_to_server(servicer, server)
    _bind(server)
    server.start()
    try:
        servicer.wait()
    finally:
        server.stop(grace=1).wait()


def check() -> None:
    """Refuse, before anything is trained, variables that contradict each other and an address that cannot be had.

    Raises: SpecError, ClusterError.
    """
    if role() == "chief":
        with _cannot_listen():
            _probe()


def _bind(server: grpc.Server) -> None:
    with _cannot_listen():
        _probe()
        server.add_insecure_port(address())


def _probe() -> None:
    """Listen for a moment: gRPC would not say what is wrong."""
    host, port = os.environ["KERASTUNER_ORACLE_IP"], os.environ["KERASTUNER_ORACLE_PORT"]
    for family, kind, protocol, _, where in socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM):
        with closing(socket.socket(family, kind, protocol)) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(where)


@contextmanager
def _cannot_listen() -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError) as exc:
        remedy = "stop what listens there, or set KERASTUNER_ORACLE_IP and _PORT to a free address of this machine"
        raise ClusterError(f"chief: cannot listen on {address()} ({exc}); {remedy}") from exc


class _Servicer(OracleServicer):
    """Answers workers; an error of the oracle ends the search rather than hide in one answer."""

    def __init__(self, oracle: "PairOracle") -> None:
        super().__init__(oracle)
        self._asked = Event()
        self._fault: Exception | None = None

    def wait(self) -> None:
        """Return when all trials have ended and nobody has asked for a while. Raises: what went wrong."""
        while self._goes_on():
            self._heard(IDLE_S)
        while self._heard(LINGER_S):
            pass
        if self._fault is not None:
            raise self._fault

    def _goes_on(self) -> bool:
        try:
            return self._fault is None and self.oracle.goes_on()
        except Exception as exc:
            self._fault = exc
            return False

    def _heard(self, seconds: float) -> bool:
        asked = self._asked.wait(seconds)
        self._asked.clear()
        return asked

    def _answer(self, method: Callable[[Any, grpc.ServicerContext], Any], request: Any, context: Any) -> Any:
        try:
            if self._fault is None:
                return method(request, context)
        except Exception as exc:
            self._fault = exc
        finally:
            self._asked.set()
        return context.abort(grpc.StatusCode.ABORTED, str(self._fault))

    def CreateTrial(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Lend a trial."""
        return self._answer(super().CreateTrial, request, context)

    def EndTrial(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Take an answer."""
        return self._answer(super().EndTrial, request, context)


def work(question: keras_tuner.HyperParameters, *, score: Score, told: Told, folder: Path, patience_s: float) -> None:
    """Score what the chief lends until it says that all is done.

    Raises: SpecError where the chief searches another space or asks another question, before it lends anything;
    ClusterError where it does not answer for `patience_s` seconds, or stops for an error; what `score` raises.
    """
    oracle = keras_tuner.Oracle(objective=OBJECTIVE, hyperparameters=question)
    tuner = PairTuner(oracle, score=score, folder=folder, told=told)
    tuner.oracle = _Client(oracle, patience_s=patience_s)
    tuner.explore()


class _Client(OracleClient):
    """Speaks to the chief, and makes sure before each trial that it asks the same question."""

    def __init__(self, oracle: keras_tuner.Oracle, *, patience_s: float) -> None:
        super().__init__(oracle)
        channel = grpc.insecure_channel(address(), options=[("grpc.max_reconnect_backoff_ms", 1000)])
        self.stub = _Patient(protos.get_service_grpc().OracleStub(channel), patience_s)
        self._question = oracle.get_space()

    def create_trial(self, tuner_id: str) -> Trial:
        """Ask for a trial; where there is none for now, come back after a pause."""
        self._check()
        trial = super().create_trial(tuner_id)
        if trial.status == TrialStatus.IDLE:
            sleep(IDLE_S)
        return trial

    def get_trial(self, trial_id: str) -> Trial:
        """Spare the chief a question: only `end_trial` says anything of a trial."""
        return Trial(self._question, trial_id=trial_id)

    def update_trial(self, trial_id: str, metrics: dict[str, float], step: int = 0) -> Trial:
        """Leave the metrics to `end_trial`."""
        return self.get_trial(trial_id)

    def _check(self) -> None:
        if self.get_space().get_config() != self._question.get_config():
            what = "searches another space, or for another data, device, seed, weights or scoring, than this worker"
            remedy = (
                "start both with the same command and version, on copies of one run folder where they trained apart"
            )
            raise SpecError(f"chief at {address()}: {what}; {remedy}")


class _Patient:
    """Calls the chief again while it does not answer, for `patience_s` seconds. All calls may safely be repeated."""

    def __init__(self, stub: Any, patience_s: float) -> None:
        self._stub, self._patience_s = stub, patience_s

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(request: Any, **_: Any) -> Any:
            until = monotonic() + self._patience_s
            while True:
                try:
                    return getattr(self._stub, name)(
                        request, wait_for_ready=True, timeout=max(0.1, until - monotonic())
                    )
                except grpc.RpcError as exc:
                    if exc.code() != grpc.StatusCode.UNAVAILABLE or monotonic() >= until:
                        raise self._error(exc) from exc
                sleep(min(IDLE_S, max(0.0, until - monotonic())))

        return call

    def _error(self, exc: Any) -> HybridError:
        if exc.code() == grpc.StatusCode.ABORTED:
            return ClusterError(f"chief at {address()} has stopped: {exc.details()}")
        if exc.code() in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE):
            what = f"no answer for {self._patience_s:g} s; it has finished, or is not there"
            return ClusterError(f"chief at {address()}: {what}; start it, or check KERASTUNER_ORACLE_IP and _PORT")
        return ClusterError(f"chief at {address()}: {exc.details()}; run chief and workers with the same version")
