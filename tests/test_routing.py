"""Which router ships: the one that routes best on validation, as whole int8 models; the free rule wins ties."""

import numpy as np
import pytest
from learner_helpers import spec

from hybrid import runtimes
from hybrid.clouds import CloudAnswers
from hybrid.graft import graft
from hybrid.progress import SILENT
from hybrid.router import MaxSoftmax, RouterNet
from hybrid.routing import MAX_SOFTMAX_BETAS, TIE_NAUC, choose_router
from hybrid.sweep import nauc
from hybrid.train import RouterRows, Trainer

FREE = [f"max_softmax beta {beta:g}" for beta in MAX_SOFTMAX_BETAS]
KNOWN = (5, 7, 8, 9)  # shoes and bags; the edge confuses shirts, pullovers and coats too


def answers(fashion, known):
    """A cloud that is sure and right about the classes in `known`, wrong and unsure about the others."""

    def probabilities(split):
        sure = np.isin(split.y, known)
        said = np.eye(10)[np.where(sure, split.y, (split.y + 1) % 10)]
        return np.where(sure[:, None], said, 0.1 * said + 0.09).astype(np.float32)

    splits = ("calibration", "validation")
    return CloudAnswers(probabilities={n: probabilities(fashion.splits[n]) for n in splits})


def choose(int8_edge, calibrated, fashion, cloud, cross_fitted=None, **router):
    asked = spec(router=router)
    held_out = Trainer(data=fashion, spec=asked, narrator=SILENT).held_out_rows(calibrated.outputs, cloud)
    return choose_router(int8_edge, calibrated.outputs, held_out, cross_fitted, cloud, fashion, asked, narrator=SILENT)


@pytest.fixture(scope="module")
def picky(int8_edge, calibrated, fashion):
    """A cloud that knows shoes and bags: only who looks at the features can tell when asking it helps."""
    return choose(int8_edge, calibrated, fashion, answers(fashion, KNOWN), epochs=40)


def test_auto_picks_the_learned_router_where_it_routes_better(picky):
    assert list(picky.nauc) == [*FREE, "learned, held out"]
    assert picky.kind == "learned"
    assert isinstance(picky.router, RouterNet)
    assert picky.nauc["learned, held out"] > max(picky.nauc[name] for name in FREE) + TIE_NAUC


def test_what_ships_is_grafted_and_measured_in_int8(picky, int8_edge, calibrated, fashion):
    assert picky.flatbuffer == graft(int8_edge.flatbuffer, picky.router, calibrated.outputs)
    logits, score = runtimes.run(picky.flatbuffer, fashion.validation.x, engine="host")
    right = logits.argmax(axis=1) == fashion.validation.y
    assert picky.nauc["learned, held out"] == nauc(score[:, 0], right, np.isin(fashion.validation.y, KNOWN))


def test_ties_go_to_the_free_rule(int8_edge, calibrated, fashion):
    """On validation the cloud gives the edge's own answers: no query changes anything, so every nAUC is 0."""
    cloud, split = answers(fashion, ()), fashion.validation
    outputs = int8_edge.outputs(split.x, label="", narrator=SILENT).logits
    cloud.probabilities["validation"][:] = np.eye(10)[outputs.argmax(axis=1)]
    routed = choose(int8_edge, calibrated, fashion, cloud, epochs=1)
    assert set(routed.nauc.values()) == {0.0}
    assert routed.kind == "max_softmax"
    assert routed.router == MaxSoftmax(beta=1.0)


def test_a_win_within_a_tie_is_a_tie(monkeypatch, int8_edge, calibrated, fashion):
    """The learned router is ahead by less than TIE_NAUC, then by more."""
    for ahead, kind in ((0.9 * TIE_NAUC, "max_softmax"), (1.1 * TIE_NAUC, "learned")):
        reached = dict.fromkeys(FREE, 0.5) | {"learned, held out": 0.5 + ahead}
        monkeypatch.setattr("hybrid.routing._nauc", lambda *args, reached=reached: reached[args[3]])
        assert choose(int8_edge, calibrated, fashion, answers(fashion, KNOWN), epochs=1).kind == kind


def test_asked_for_the_free_rule_nothing_is_learned(int8_edge, calibrated, fashion):
    routed = choose(int8_edge, calibrated, fashion, answers(fashion, KNOWN), kind="max_softmax")
    assert list(routed.nauc) == FREE
    assert routed.kind == "max_softmax"
    assert routed.nauc[f"max_softmax beta {routed.router.beta:g}"] == max(routed.nauc.values())


def test_asked_for_a_learned_router_it_ships_whatever_it_reaches(int8_edge, calibrated, fashion):
    """With rows of the training split beside, that candidate too."""
    x = fashion.train.x[:200]
    rows = RouterRows(x=x, query=np.arange(200) % 2 == 0, cloud_probabilities=np.full((200, 10), 0.1, np.float32))
    routed = choose(
        int8_edge, calibrated, fashion, answers(fashion, KNOWN), cross_fitted=rows, kind="learned", epochs=2
    )
    assert list(routed.nauc) == ["learned, held out", "learned, cross fitted"]
    assert routed.kind == "learned"
