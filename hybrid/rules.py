"""Rules that need no learner, as routers of a few constants: what a learned router must beat on the device.

Each is a `RouterNet` and ships as any other router does. `beta` is in logits' stored steps throughout: the softmax of
the edge's own logits has the beta of their quantisation scale, smaller ones are softer.
"""

import numpy as np
from numpy.typing import NDArray

from hybrid.device_router import RouterInputs, RouterNet, StoredOutputs, router_inputs
from hybrid.policy import logistic
from hybrid.supervision import Evidence, query_targets
from hybrid.sweep import nauc

RELATIVE_TEMPERATURES = (0.5, 1.0, 4.0)
"""Softmax temperatures relative to the logits' own spread: the cold one moves with the entropy over all classes, the
hot one with the margin between the two best."""
CLASS_SHRINKAGE = 20.0
LEAST_SPREAD = 1e-6
"""Standard deviation, in log-odds, of a fitted score; below it is rounding noise, as where no query gains."""


def natural_beta(stored: StoredOutputs) -> float:
    """The beta at which the margin of the two best logits is 4 nats in the median; a property of the edge net alone."""
    top = np.sort(stored.logits.astype(np.int32), axis=1)[:, -2:]
    return 4.0 / max(float(np.median(top[:, 1] - top[:, 0])), 1.0)


def relative_betas(stored: StoredOutputs) -> tuple[float, ...]:
    """Betas of `RELATIVE_TEMPERATURES`."""
    return tuple(natural_beta(stored) / temperature for temperature in RELATIVE_TEMPERATURES)


def max_softmax_rule(beta: float) -> RouterNet:
    """The largest softmax probability of the stored logits times `beta`."""
    return _linear(RouterInputs(betas=(beta,)), np.ones(1))


def logit_margin_rule() -> RouterNet:
    """The largest stored logit less the second: one subtraction."""
    return _linear(RouterInputs(top=1), np.ones(1))


def fit_max_softmax(evidence: Evidence) -> RouterNet:
    """The free rule at the temperature of three that routes best on the evidence."""
    rules = [max_softmax_rule(beta) for beta in relative_betas(evidence.stored)]
    return max(rules, key=lambda rule: nauc(rule.raw(evidence.stored), evidence.edge_right, evidence.cloud_right))


def fit_logit_margin(evidence: Evidence) -> RouterNet:
    """The margin, which has nothing to fit."""
    return logit_margin_rule()


def fit_logistic(evidence: Evidence) -> RouterNet:
    """Logistic regression of the proxy label on what the two largest scores say: their margin and the larger's share.

    Behera et al. 2024 (arXiv 2407.11061) take the two largest int8 softmax scores, which these two determine.
    """
    return _fitted(evidence, RouterInputs(top=1, betas=(natural_beta(evidence.stored),)), classes=0)


def fit_class_offsets(evidence: Evidence) -> RouterNet:
    """`fit_logistic` with a threshold of its own for each answered class (Daghero et al. 2022), shrunk to one."""
    inputs = RouterInputs(top=1, betas=(natural_beta(evidence.stored),), classes=True)
    return _fitted(evidence, inputs, classes=evidence.stored.logits.shape[1])


def on_log_odds(net: RouterNet, evidence: Evidence) -> RouterNet:
    """The same ranking, on the scale that all routers share: minus the log-odds that a query pays.

    A line is fitted to the raw score (Platt 2000); where more of it would not mean clearly fewer queries, the evidence
    says nothing about this router, and the score is only shifted.
    """
    raw = net.raw(evidence.stored)
    weights, bias = logistic(raw[:, None], query_targets(evidence, softness=0.0))
    fitted = -weights[0] * raw.std() > LEAST_SPREAD
    factor, shift = (-float(weights[0]), -bias) if fitted else (1.0, -float(np.median(raw)))
    if net.out is None:
        return _linear(net.inputs, net.weights[:, 0] * factor, float(net.bias[0]) * factor + shift)
    return RouterNet(
        inputs=net.inputs,
        weights=net.weights,
        bias=net.bias,
        out=(net.out * factor).astype(np.float32),
        out_bias=net.out_bias * factor + shift,
    )


def _fitted(evidence: Evidence, inputs: RouterInputs, *, classes: int) -> RouterNet:
    """Logistic regression on `inputs`; where it finds nothing, the margin, which is the first of them."""
    columns = router_inputs(evidence.stored, inputs)
    ridge = np.append(np.zeros(columns.shape[1] - classes), np.full(classes, CLASS_SHRINKAGE))
    weights, bias = logistic(columns, query_targets(evidence, softness=0.0), ridge)
    if (columns @ weights).std() > LEAST_SPREAD:
        return _linear(inputs, -weights, -bias)
    return _linear(inputs, np.eye(1, columns.shape[1])[0])


def _linear(inputs: RouterInputs, weights: NDArray[np.floating], bias: float = 0.0) -> RouterNet:
    return RouterNet(
        inputs=inputs, weights=weights.astype(np.float32)[:, None], bias=np.array([bias], dtype=np.float32)
    )


RULES = {
    "max_softmax": fit_max_softmax,
    "logit_margin": fit_logit_margin,
    "logistic": fit_logistic,
    "class_offsets": fit_class_offsets,
}
"""By name: what makes the rule from evidence."""
