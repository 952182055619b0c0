"""`hybrid.Router`: fit a router on anyone's arrays, without the rest of this project.

The edge net may come from any framework and the cloud may be an API: all that counts are arrays of what they said about
the same examples. It follows scikit-learn's conventions and needs no scikit-learn, and no TensorFlow.
"""

import inspect
from dataclasses import dataclass
from typing import Any, cast, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hybrid import guarantee, policy, sweep
from hybrid.artifacts import Bools, Floats, Ints
from hybrid.configure import router_spec, within
from hybrid.device_router import IntegerRouter, StoredOutputs, integer_router
from hybrid.errors import SpecError
from hybrid.guarantee import Certificate, Kind, Target
from hybrid.progress import SILENT
from hybrid.router import Chosen, choose
from hybrid.specs import RouterSpec
from hybrid.supervision import Evidence, fit_temperature, softmax, tempered

LARGEST_GAP = 255
GAP_QUANTILE = 0.99
"""Share of the gaps between logits that 8 bits tell apart; larger ones are all alike."""
FEATURE_QUANTILES = (0.001, 0.999)


@dataclass(frozen=True, kw_only=True)
class Storing:
    """How float arrays become the int8 that a router reads; int8 arrays stay as they are.

    Logits count by their gaps to the largest, in steps of `logit_step`; each feature has a lowest value and a step,
    ``(width,)``.
    """

    logit_step: float
    feature_low: Floats
    feature_step: Floats

    def stored(self, logits: NDArray[Any], features: NDArray[Any]) -> StoredOutputs:
        """Int8 outputs; the answer stays the answer however close the others come."""
        if logits.dtype != np.int8:
            gaps = np.rint((logits.max(axis=1, keepdims=True) - logits) / self.logit_step)
            answer = np.arange(logits.shape[1]) == logits.argmax(axis=1)[:, None]
            logits = (127 - np.where(answer, 0, np.clip(gaps, 1, LARGEST_GAP))).astype(np.int8)
        if features.dtype != np.int8:
            steps = np.rint((features - self.feature_low) / self.feature_step)
            features = (np.clip(steps, 0, 255) - 128).astype(np.int8)
        return StoredOutputs(logits=logits, features=features)


class Router:
    """Says which examples the edge can answer; the others are worth a query to the cloud.

    >>> rng = np.random.default_rng(0)
    >>> labels = rng.integers(0, 3, 900)
    >>> logits = 4 * rng.normal(size=(900, 3)) + 5 * np.eye(3)[labels]  # an edge net that is often wrong
    >>> router = Router(random_state=0).fit(logits, labels, cloud=labels)
    >>> kept = router.kept(logits, threshold=router.threshold(logits, coverage=0.8))
    >>> bool((logits.argmax(axis=1) == labels)[kept].mean() > (logits.argmax(axis=1) == labels).mean() + 0.05)
    True

    The parameters but `random_state` are those of `hybrid.specs.RouterSpec`. After `fit`: `kind_` (what was chosen),
    `reached_` (each candidate's cross-validated nAUC), `net_` (floating point), `integer_` (what a device computes),
    `storing_`, `temperature_` (of the cloud's probabilities), `n_features_in_`, `n_classes_`.
    """

    def __init__(
        self,
        kind: str = "auto",
        *,
        hidden: int = 24,
        epochs: int = 40,
        max_parameters: int = 1000,
        softness: float = 1.0,
        teachers: int = 3,
        teacher_epochs: int = 12,
        students: int = 2,
        choice_folds: int = 3,
        random_state: int = 0,
    ) -> None:
        self.kind = kind
        self.hidden = hidden
        self.epochs = epochs
        self.max_parameters = max_parameters
        self.softness = softness
        self.teachers = teachers
        self.teacher_epochs = teacher_epochs
        self.students = students
        self.choice_folds = choice_folds
        self.random_state = random_state

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The constructor's arguments by name."""
        return {name: getattr(self, name) for name in _PARAMETERS}

    def set_params(self, **params: Any) -> "Router":
        """Change constructor arguments. Raises: SpecError for a name that is none."""
        for name, value in params.items():
            if name not in _PARAMETERS:
                raise SpecError(f"Router: no parameter {name}; there are {', '.join(_PARAMETERS)}")
            setattr(self, name, value)
        return self

    def __repr__(self) -> str:
        return f"Router({', '.join(f'{name}={value!r}' for name, value in self.get_params().items())})"

    def fit(
        self,
        logits: ArrayLike,
        labels: ArrayLike,
        cloud: ArrayLike,
        features: ArrayLike | None = None,
        *,
        extra: tuple[ArrayLike, ...] | None = None,
    ) -> "Router":
        """Learn from examples that neither net was trained on.

        `logits` ``(n, num_classes)`` and `features` ``(n, width)`` are the edge's, float or int8 as a quantised net
        stores them; `labels` ``(n,)``; `cloud` its probabilities or logits ``(n, num_classes)``, or just its answers
        ``(n,)``. `extra` is ``(logits, labels, cloud[, features])`` of further examples, such as the training set of
        the edge: they teach a learned router, and judge none.

        Raises: SpecError for parameters outside their limits, and for arrays that do not fit together, or that hold
        what is no number.
        """
        spec = self._spec()
        arrays = _Arrays.read(logits, labels, cloud, features)
        more = None if extra is None else _Arrays.read(*extra, *([None] if len(extra) == 3 else []))
        if more is not None and not arrays.fits(more):
            raise SpecError("Router: extra has other classes, features or types than the first arrays; give it alike")
        self.storing_ = arrays.storing()
        self.temperature_ = fit_temperature(arrays.belief, arrays.labels) if arrays.soft else 1.0
        self.n_features_in_, self.n_classes_ = arrays.features.shape[1], arrays.logits.shape[1]
        held_out = arrays.evidence(self.storing_, self.temperature_)
        further = None if more is None else more.evidence(self.storing_, self.temperature_)
        chosen: Chosen = choose(held_out, further, spec, seed=self.random_state, narrator=SILENT)
        self.kind_, self.net_, self.reached_ = chosen.kind, chosen.net, dict(chosen.reached)
        self.integer_: IntegerRouter = integer_router(chosen.net, held_out.stored)
        return self

    def stored(self, logits: ArrayLike, features: ArrayLike | None = None) -> StoredOutputs:
        """The int8 arrays that `integer_` reads. Raises: SpecError before `fit` or for arrays unlike those of `fit`."""
        self._check_fitted()
        z, f = _edge(logits, features)
        if (z.shape[1], f.shape[1]) != (self.n_classes_, self.n_features_in_):
            raise SpecError(
                f"Router: got {z.shape[1]} classes and {f.shape[1]} features, "
                f"fitted on {self.n_classes_} and {self.n_features_in_}; give the same edge's outputs"
            )
        return self.storing_.stored(z, f)

    def score(self, logits: ArrayLike, features: ArrayLike | None = None) -> NDArray[np.int8]:
        """The int8 score, ``(n,)``: a rank among the examples of `fit`; higher: the edge can answer."""
        return self.integer_scores(self.stored(logits, features))

    def integer_scores(self, stored: StoredOutputs) -> NDArray[np.int8]:
        """`score` of outputs that are stored already. Raises: SpecError before `fit`."""
        self._check_fitted()
        return self.integer_.score(stored)

    def kept(self, logits: ArrayLike, features: ArrayLike | None = None, *, threshold: int) -> Bools:
        """Tell where the edge answers, ``(n,)``."""
        return policy.kept(self.score(logits, features), threshold)

    def threshold(
        self,
        logits: ArrayLike,
        features: ArrayLike | None = None,
        *,
        coverage: float | None = None,
        max_loss: float | None = None,
        labels: ArrayLike | None = None,
        cloud: ArrayLike | None = None,
    ) -> int:
        """The threshold in [-128, 128] that gives what is asked on these examples, which `fit` should not have seen.

        Either the highest that keeps at least `coverage`, or with `labels` and `cloud` the lowest (most coverage) at
        which the hybrid loses at most `max_loss` of the cloud's accuracy. It is what these examples say; for others
        chance alone makes it some tenths of a point off, which `certify` allows for.

        Raises: SpecError unless exactly one of the two is asked, and within [0, 1].
        """
        asked = [limit for limit in (coverage, max_loss) if limit is not None]
        if len(asked) != 1 or not 0.0 <= asked[0] <= 1.0:
            raise SpecError(f"Router.threshold: got coverage {coverage}, max_loss {max_loss}; give one, 0 to 1")
        scores = self.score(logits, features).astype(np.int64)
        steps = np.arange(sweep.KEEP_ALL, sweep.KEEP_NONE + 1)
        queried = np.searchsorted(np.sort(scores), steps)  # how many lie below each threshold
        if coverage is not None:
            return int(steps[np.flatnonzero(queried <= (1.0 - coverage) * len(scores) + 1e-9)[-1]])
        if max_loss is None or labels is None or cloud is None:
            raise SpecError("Router.threshold: max_loss needs labels and cloud; give both")
        edge_right, cloud_right = _Arrays.read(logits, labels, cloud, features).right()
        gain = np.concatenate([[0], np.cumsum((cloud_right.astype(int) - edge_right)[np.argsort(scores)])])
        loss = (cloud_right.sum() - edge_right.sum() - gain[queried]) / len(scores)
        return int(steps[np.flatnonzero(loss <= max_loss + 1e-9)[0]])

    def certify(
        self,
        logits: ArrayLike,
        labels: ArrayLike,
        cloud: ArrayLike,
        features: ArrayLike | None = None,
        *,
        confidence: float = 0.9,
        **targets: float,
    ) -> Certificate:
        """A threshold that holds all `targets` on new examples like these, with this confidence.

        `targets` are among ``max_loss``, ``min_accuracy`` and ``max_queries`` (see `hybrid.guarantee.Target`). Neither
        `fit` nor any choice may have seen these examples.

        Raises: SpecError for an unknown target, and where nothing can be certified.
        """
        if unknown := sorted(targets.keys() - set(get_args(Kind))):
            raise SpecError(f"Router.certify: no target {', '.join(unknown)}; there are {', '.join(get_args(Kind))}")
        wanted = [Target(cast(Kind, kind), value) for kind, value in targets.items()]
        right = _Arrays.read(logits, labels, cloud, features).right()
        return guarantee.certify(self.score(logits, features), *right, wanted, confidence)

    def nauc(self, logits: ArrayLike, labels: ArrayLike, cloud: ArrayLike, features: ArrayLike | None = None) -> float:
        """Area of the accuracy-coverage curve on these examples: 0 is routing by lot, 1 the oracle."""
        return sweep.nauc(self.score(logits, features), *_Arrays.read(logits, labels, cloud, features).right())

    def _spec(self) -> RouterSpec:
        """The parameters as a spec; NumPy's scalars, which searches over parameters give, count as Python's."""
        named = {name: v.item() if isinstance(v, np.generic) else v for name, v in self.get_params().items()}
        within("Router: random_state", named.pop("random_state"), 0, 2**31 - 1)
        return router_spec(named, where="Router")

    def _check_fitted(self) -> None:
        if not hasattr(self, "integer_"):
            raise SpecError("Router: not fitted; call fit first")


_PARAMETERS = tuple(name for name in inspect.signature(Router.__init__).parameters if name != "self")


@dataclass(frozen=True, kw_only=True)
class _Arrays:
    """What a caller gave, checked; `soft` where the cloud gave more than its answers."""

    logits: NDArray[Any]
    features: NDArray[Any]
    labels: Ints
    belief: Floats
    soft: bool

    @classmethod
    def read(cls, logits: ArrayLike, labels: ArrayLike, cloud: ArrayLike, features: ArrayLike | None) -> "_Arrays":
        z, f = _edge(logits, features)
        n, num_classes = z.shape
        y, answers = _classes("labels", labels, n, num_classes), np.asarray(cloud)
        if answers.ndim == 1:
            classes = _classes("cloud", answers, n, num_classes)
            return cls(
                logits=z, features=f, labels=y, belief=np.eye(num_classes, dtype=np.float32)[classes], soft=False
            )
        said = _numbers("cloud", answers).astype(np.float32)
        if said.shape != (n, num_classes):
            raise SpecError(f"Router: cloud has shape {said.shape}, allowed ({n}, {num_classes}) or ({n},)")
        sums = (said.min() >= 0.0) and np.allclose(said.sum(axis=1), 1.0, atol=1e-2)
        return cls(logits=z, features=f, labels=y, belief=said if sums else softmax(said), soft=True)

    def fits(self, other: "_Arrays") -> bool:
        """Whether the other arrays can be stored as these are."""
        mine, theirs = ((a.logits.shape[1], a.features.shape[1]) for a in (self, other))
        return mine == theirs and (self.logits.dtype == np.int8) == (other.logits.dtype == np.int8)

    def storing(self) -> Storing:
        """Steps that cover these arrays."""
        gaps = self.logits.astype(np.float64).max(axis=1, keepdims=True) - self.logits
        low, high = (np.quantile(self.features.astype(np.float64), q, axis=0) for q in FEATURE_QUANTILES)
        return Storing(
            logit_step=max(float(np.quantile(gaps, GAP_QUANTILE)), 1e-9) / LARGEST_GAP,
            feature_low=low.astype(np.float32),
            feature_step=np.where(high > low, (high - low) / 255.0, 1.0).astype(np.float32),
        )

    def right(self) -> tuple[Bools, Bools]:
        """Where the edge is right, and where the cloud is, ``(n,)`` each."""
        return self.logits.argmax(axis=1) == self.labels, self.belief.argmax(axis=1) == self.labels

    def evidence(self, storing: Storing, temperature: float) -> Evidence:
        belief = tempered(self.belief, temperature) if self.soft else self.belief
        return Evidence(
            stored=storing.stored(self.logits, self.features), labels=self.labels, cloud_probabilities=belief
        )


def _edge(logits: ArrayLike, features: ArrayLike | None) -> tuple[NDArray[Any], NDArray[Any]]:
    z = _numbers("logits", np.asarray(logits))
    if z.ndim != 2 or z.shape[1] < 2 or not len(z):
        raise SpecError(f"Router: logits have shape {z.shape}, allowed (n, num_classes) with two classes or more")
    f = np.zeros((len(z), 0), np.int8) if features is None else _numbers("features", np.asarray(features))
    if f.ndim != 2 or len(f) != len(z):
        raise SpecError(f"Router: features have shape {f.shape}, allowed ({len(z)}, width) beside {len(z)} logits")
    return z, f


def _numbers(name: str, values: NDArray[Any]) -> NDArray[Any]:
    """Int8 as it is, all else as float."""
    if values.dtype == np.int8:
        return values
    try:
        values = values.astype(np.float32)
    except (TypeError, ValueError) as error:
        raise SpecError(f"Router: {name} of type {values.dtype} are no numbers; give float or int8 arrays") from error
    if not np.isfinite(values).all():
        row = int(np.argwhere(~np.isfinite(values))[0][0])
        raise SpecError(f"Router: {name} hold NaN or infinity, first in row {row}; remove or repair such rows")
    return values


def _classes(name: str, values: ArrayLike, n: int, num_classes: int) -> Ints:
    classes = np.asarray(values)
    if classes.shape != (n,) or not np.issubdtype(classes.dtype, np.integer):
        raise SpecError(f"Router: {name} are {classes.dtype} of shape {classes.shape}, allowed whole numbers ({n},)")
    if classes.min() < 0 or classes.max() >= num_classes:
        raise SpecError(f"Router: {name} reach {classes.min()} to {classes.max()}, allowed 0 to {num_classes - 1}")
    return classes.astype(np.int32)
