"""Every policy of the router benchmark on one edge: rules, the paper's router, what was tried, and the ceilings."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from router_nets import Net

from hybrid import policy, sweep
from hybrid.paper_router import PaperSpec, fit_paper_router
from hybrid.router import fit_kind, fit_teacher
from hybrid.specs import RouterSpec
from hybrid.supervision import Evidence, proxy_labels, stacked

Scores = NDArray[Any]


def evidence(net: Net, split: str) -> Evidence:
    """What a router learns of one split."""
    return Evidence(stored=net.said[split], labels=net.labels[split], cloud_probabilities=net.cloud[split])


def policies(net: Net, spec: RouterSpec, seed: int, *, variants: bool) -> dict[str, Callable[[str], Scores]]:
    """Every policy by name: split to scores; with `variants`, also what was tried for the router that ships.

    Learners see validation and training examples, the constants of the rules are fitted on validation alone.
    """
    held, seen = evidence(net, "validation"), evidence(net, "train")

    def logits(split: str) -> Scores:
        return net.said[split].logits.astype(np.float64) * net.logit_scale

    def judge(scores: Scores) -> float:
        return sweep.nauc(scores, held.edge_right, held.cloud_right)

    query = proxy_labels(held.edge_right, held.cloud_right)
    p_norm = policy.fit_p_norm(logits("validation"), judge)
    two = policy.fit_two_scores(logits("validation"), query)
    offsets = policy.fit_class_offsets(logits("validation"), query)

    def by_rule(rule: Callable[[Scores], Scores], split: str) -> Scores:
        return rule(logits(split))

    made: dict[str, Callable[[str], Scores]] = {name: partial(by_rule, rule) for name, rule in policy.BASELINES.items()}
    made["p_norm"] = lambda split: p_norm(logits(split))
    made["two_scores"] = lambda split: two(logits(split))
    made["class_offsets"] = lambda split: offsets(logits(split))
    paper = fit_paper_router(stacked(seen, held), PaperSpec(learning_rate=3e-3), logit_scale=net.logit_scale, seed=seed)
    made["paper"] = lambda split: paper.score(net.said[split])
    if variants:
        made |= _variants(net, held, seen, spec, seed)
    made["agree bound"] = lambda split: policy.agree(
        net.said[split].logits.argmax(axis=1), net.cloud[split].argmax(axis=1), policy.max_softmax(logits(split))
    )
    made["oracle"] = lambda split: policy.oracle(net.right(split), net.cloud_right(split))
    return made


def _variants(
    net: Net, held: Evidence, seen: Evidence, spec: RouterSpec, seed: int
) -> dict[str, Callable[[str], Scores]]:
    teacher = fit_teacher(held, seen, spec, seed=seed)
    made: dict[str, Callable[[str], Scores]] = {"teacher (float)": lambda split: teacher.score(net.said[split])}
    tried = {
        "gain": ("gain", seen, spec),
        "held-out rows alone": ("learned", None, spec),
        "hard labels": ("learned", seen, replace(spec, softness=0.0)),
        "half hard, half soft": ("learned", seen, replace(spec, softness=0.5)),
        "no teacher": ("learned", seen, replace(spec, teachers=0)),
    }
    for name, (kind, extra, asked) in tried.items():
        made[name] = partial(_raw, fit_kind(kind, held, extra, asked, seed=seed), net)
    return made


def _raw(router: Any, net: Net, split: str) -> Scores:
    return router.raw(net.said[split])
