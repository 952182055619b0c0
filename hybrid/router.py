"""Learned routers: a large teacher says what a query is worth, a student small enough for the device repeats it.

All learn from `Evidence`: what the int8 edge stores of an example, its label, and what the cloud believes. The teacher
is a mean of nets as large as the paper's router; the student has one hidden layer on the integers of `router_inputs`.
`choose` compares students and free rules by cross-validation, as the device would score them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hybrid.artifacts import Floats
from hybrid.device_router import RouterInputs, RouterNet, StoredOutputs, integer_router, router_inputs
from hybrid.errors import SpecError
from hybrid.perceptron import Perceptron, Recipe, fit, sigmoid
from hybrid.policy import negative_entropy
from hybrid.progress import SILENT, Narrator
from hybrid.rules import RULES, natural_beta, on_log_odds, relative_betas
from hybrid.specs import RouterSpec
from hybrid.supervision import Evidence, query_targets, softmax, stacked
from hybrid.sweep import nauc

LEARNED: dict[str, Literal["learned", "gain"]] = {"learned": "learned", "gain": "gain"}
FREE = "max_softmax"
TIE_NAUC = 0.005
"""Differences below half a point are ties; the free rule wins them."""
TEACHER_WIDTHS = (128, 64)
RATE = 1e-2
STOPPING_SHARE = 0.2
"""Share of the held-out examples by which a teacher's best epoch is told."""
EPOCH_STEPS, LEAST_BATCH, MOST_BATCH = 64, 32, 512
"""Batches are so small that an epoch has so many steps, but within these sizes: few examples need no fewer steps."""
LEAST_HIDDEN = 6
"""A student gives up inputs before it gives up so many hidden units."""
MOST_CLASSES = 64
"""Beyond so many classes the teacher sees the largest logits alone, sorted."""


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """The mean of several nets on everything that stored outputs say, in floating point.

    `mean` and `inverse_spread` ``(d,)`` standardise `teacher_inputs`.
    """

    beta: float
    mean: Floats
    inverse_spread: Floats
    nets: tuple[Perceptron, ...]

    def score(self, stored: StoredOutputs) -> Floats:
        """Minus the log-odds that a query pays, ``(n,)``; higher: the edge can answer."""
        x = (teacher_inputs(stored, self.beta) - self.mean) * self.inverse_spread
        return -np.mean([net.logits(x) for net in self.nets], axis=0, dtype=np.float32)


@dataclass(frozen=True, kw_only=True)
class Reached:
    """nAUC over the folds of a cross-validation: `mean`, and `spread`, the standard deviation between folds."""

    mean: float
    spread: float


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """The winner, fitted on all evidence, and what each candidate reached."""

    kind: str
    net: RouterNet
    reached: Mapping[str, Reached]


def teacher_inputs(stored: StoredOutputs, beta: float) -> Floats:
    """Features, gaps to the largest logit, probabilities, one-hot of the answer, confidences, ``(n, d)``.

    The confidences are the entropy, the largest probability and its margin, and the logit margin. The answer itself
    matters much: what the cloud thinks of a class that the edge mistakes for others no confidence tells.
    """
    logits = stored.logits.astype(np.float32) * np.float32(beta)
    if logits.shape[1] > MOST_CLASSES:
        logits = -np.sort(-logits, axis=1)[:, :MOST_CLASSES]
    probabilities = softmax(logits)
    top, best = np.sort(logits, axis=1)[:, -2:], np.sort(probabilities, axis=1)[:, -2:]
    answer = np.arange(stored.logits.shape[1]) == stored.logits.argmax(axis=1)[:, None]
    said = [negative_entropy(logits), best[:, 1], best[:, 1] - best[:, 0], top[:, 1] - top[:, 0]]
    parts = [stored.features, logits - top[:, 1:], probabilities, answer, *(column[:, None] for column in said)]
    return np.concatenate(parts, axis=1, dtype=np.float32)


def fit_teacher(held_out: Evidence, extra: Evidence | None, spec: RouterSpec, *, seed: int) -> Teacher:
    """Fit `spec.teachers` nets to the targets on `held_out` and `extra` evidence.

    Each keeps a different part of the held-out examples back and ends at the epoch that routes it best.
    """
    everything = stacked(held_out, extra)
    beta = natural_beta(everything.stored)
    x = teacher_inputs(everything.stored, beta)
    mean, inverse_spread = standardisation(x)
    x = (x - mean) * inverse_spread
    targets = _targets(everything, spec)
    nets = []
    for member in range(spec.teachers):
        rng = np.random.default_rng([seed, member])
        back = rng.permutation(len(held_out))[: int(STOPPING_SHARE * len(held_out))]
        used = np.setdiff1d(np.arange(len(x)), back)
        judge = _routes(x[back], held_out.take(back)) if len(back) else None
        net = Perceptron(x.shape[1], TEACHER_WIDTHS, rng=rng)
        nets.append(fit(net, x[used], targets[used], _recipe(spec.teacher_epochs, len(used)), rng=rng, judge=judge))
    return Teacher(beta=beta, mean=mean, inverse_spread=inverse_spread, nets=tuple(nets))


def fit_student(stored: StoredOutputs, targets: Floats, spec: RouterSpec, *, seed: int) -> RouterNet:
    """Fit the router of at most `spec.max_parameters` to `targets` ``(n,)`` in [0, 1], the worth of a query.

    Of `spec.students` starts the one that comes nearest is kept. Its raw score is minus the log-odds of the target.
    """
    inputs, hidden = student_inputs(stored, spec)
    v = router_inputs(stored, inputs).astype(np.float32)
    mean, inverse_spread = standardisation(v)
    x = (v - mean) * inverse_spread
    recipe = _recipe(spec.epochs, len(v))
    starts = []
    for start in range(spec.students):
        rng = np.random.default_rng([seed, start])
        starts.append(fit(Perceptron(x.shape[1], (hidden,), rng=rng), x, targets, recipe, rng=rng))
    net = min(starts, key=lambda net: _cross_entropy(net.logits(x), targets))
    (weights, bias), (out, out_bias) = net.folded()
    weights = weights * inverse_spread[:, None]
    return RouterNet(
        inputs=inputs, weights=weights, bias=bias - mean @ weights, out=-out[:, 0], out_bias=-float(out_bias[0])
    )


def fit_learned(held_out: Evidence, extra: Evidence | None, spec: RouterSpec, *, seed: int) -> RouterNet:
    """Teacher and student in one; with `spec.teachers` = 0 the student alone."""
    everything = stacked(held_out, extra)
    if spec.teachers:
        teacher = fit_teacher(held_out, extra, spec, seed=seed)
        targets = sigmoid(-teacher.score(everything.stored))
    else:
        targets = _targets(everything, spec)
    return fit_student(everything.stored, targets, spec, seed=seed)


def student_inputs(stored: StoredOutputs, spec: RouterSpec) -> tuple[RouterInputs, int]:
    """The richest inputs that leave `LEAST_HIDDEN` hidden units within `spec.max_parameters`, and the units they leave.

    Beside gaps, margins and the class answered, confidences add nothing.

    Raises: SpecError where even the confidences do not fit.
    """
    num_features, num_classes = stored.features.shape[1], stored.logits.shape[1]
    top = min(2, num_classes - 1)
    rich = RouterInputs(features=num_features > 0, gaps=True, top=top, classes=True)
    for inputs in (
        rich,
        replace(rich, gaps=False),
        replace(rich, features=False),
        RouterInputs(top=top, betas=relative_betas(stored), classes=True),
        RouterInputs(top=top, betas=relative_betas(stored)),
    ):
        fan_in = len(inputs.highest(num_features, num_classes))
        hidden = min(spec.hidden, (spec.max_parameters - 1) // (fan_in + 2))
        if hidden >= min(LEAST_HIDDEN, spec.hidden):
            return inputs, hidden
    raise SpecError(f"router.max_parameters: got {spec.max_parameters}, a router of the confidences alone needs more")


def choose(
    held_out: Evidence,
    extra: Evidence | None,
    spec: RouterSpec,
    *,
    seed: int,
    narrator: Narrator = SILENT,
) -> Chosen:
    """Fit the kind of router that `spec` names; with ``auto``, what routes best on held-out examples in their turn.

    Each of `spec.choice_folds` parts of the held-out examples judges int8 routers fitted on the other parts and on all
    `extra` evidence, with one teacher and one start each; the winner is fitted on everything. Ties go to the free rule.

    Raises: SpecError where there are fewer held-out examples than folds.
    """
    if spec.kind != "auto":
        return Chosen(kind=spec.kind, net=fit_kind(spec.kind, held_out, extra, spec, seed=seed), reached={})
    kinds = (*RULES, "learned")
    if len(held_out) < spec.choice_folds:
        raise SpecError(f"router: got {len(held_out)} held-out examples for {spec.choice_folds} folds; give it more")
    fold = np.random.default_rng(seed).permutation(len(held_out)) % spec.choice_folds
    light = replace(spec, teachers=min(spec.teachers, 1), students=1)
    found: dict[str, list[float]] = {kind: [] for kind in kinds}
    with narrator.track("router", len(kinds) * spec.choice_folds + 1) as done:
        for index in range(spec.choice_folds):
            fitted_on, judged_by = (held_out.take(np.flatnonzero(part)) for part in (fold != index, fold == index))
            for kind in kinds:
                net = fit_kind(kind, fitted_on, extra, light, seed=seed)
                found[kind].append(_int8_nauc(net, fitted_on, judged_by))
                done(1, f"{kind}: nAUC {found[kind][-1]:.3f}")
        reached = {kind: Reached(mean=float(np.mean(v)), spread=float(np.std(v, ddof=1))) for kind, v in found.items()}
        best = max(kinds, key=lambda kind: reached[kind].mean + TIE_NAUC * (kind == FREE))
        net = fit_kind(best, held_out, extra, spec, seed=seed)
        done(1, best)
    return Chosen(kind=best, net=net, reached=reached)


def fit_kind(kind: str, held_out: Evidence, extra: Evidence | None, spec: RouterSpec, *, seed: int) -> RouterNet:
    """A router of this kind, scoring minus the log-odds that a query pays.

    Raises: SpecError for a kind that is not there.
    """
    if kind in RULES:
        net = RULES[kind](held_out)
    elif kind in LEARNED:
        net = fit_learned(held_out, extra, replace(spec, kind=LEARNED[kind]), seed=seed)
    else:
        raise SpecError(f"router.kind: got {kind}, allowed {', '.join((*LEARNED, *RULES))}")
    return on_log_odds(net, held_out)


def standardisation(x: Floats) -> tuple[Floats, Floats]:
    """Mean and inverse standard deviation of each column, ``(d,)``; 0 for a column that never changes."""
    mean, spread = x.mean(axis=0), x.std(axis=0)
    return mean, np.divide(1.0, spread, out=np.zeros_like(spread), where=spread > 1e-6)


def _recipe(epochs: int, rows: int) -> Recipe:
    return Recipe(epochs=epochs, rate=RATE, batch=min(MOST_BATCH, max(LEAST_BATCH, rows // EPOCH_STEPS)))


def _cross_entropy(logits: Floats, targets: Floats) -> float:
    return float(np.mean(np.logaddexp(0.0, logits) - targets * logits))


def _targets(evidence: Evidence, spec: RouterSpec) -> Floats:
    """As soft as the spec says, unless the cloud gives answers alone: what it believes is not known then."""
    target: Literal["proxy", "gain"] = "gain" if spec.kind == "gain" else "proxy"
    believes = bool((evidence.cloud_probabilities.max(axis=1) < 1.0).any())
    return query_targets(evidence, softness=spec.softness if believes else 0.0, target=target)


def _routes(x: Floats, evidence: Evidence) -> Callable[[Perceptron], float]:
    right = evidence.edge_right, evidence.cloud_right
    return lambda net: nauc(-net.logits(x), *right)


def _int8_nauc(net: RouterNet, fitted_on: Evidence, judged_by: Evidence) -> float:
    score: NDArray[np.int8] = integer_router(net, fitted_on.stored).score(judged_by.stored)
    return nauc(score, judged_by.edge_right, judged_by.cloud_right)
