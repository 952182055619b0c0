"""From int8 nets to a device program: whose router ships, where the next stage looks, one scale for all scores."""

from dataclasses import replace

import numpy as np
import pytest
from learner_helpers import EDGE, spec

from datasets import Split
from hybrid import cost
from hybrid.cascade import NEVER
from hybrid.look import cut
from hybrid.policy import agree, kept
from hybrid.predict import run_program, stage_outputs
from hybrid.progress import SILENT
from hybrid.quantize import quantize_stages
from hybrid.router import FREE
from hybrid.routing import MACS_SHARE, SMALL_NET_PARAMETERS, Rows, route, threshold_of
from hybrid.rules import RULES
from hybrid.sweep import nauc

KNOWN = (5, 7, 8, 9)  # shoes and bags; the edge confuses shirts, pullovers and coats too
ROUTER = {"hidden": 8, "epochs": 12, "teachers": 1, "teacher_epochs": 6, "students": 1}


def rows(split, known=KNOWN):
    """A cloud that is sure and right about the classes in `known`, wrong and unsure about the others."""
    sure = np.isin(split.y, known)
    said = np.eye(10)[np.where(sure, split.y, (split.y + 1) % 10)]
    return Rows(split=split, cloud=np.where(sure[:, None], said, 0.1 * said + 0.09).astype(np.float32))


def joined(*splits):
    return Split(x=np.concatenate([s.x for s in splits]), y=np.concatenate([s.y for s in splits]))


@pytest.fixture(scope="module")
def held_out(fashion):
    """1,000 examples that the edge has not learned."""
    return rows(joined(fashion.calibration, fashion.validation))


def routed(nets, held_out, extra=None, look=None, **router):
    asked = spec(router={**ROUTER, **router}, look=look or {})
    return route(nets, held_out, extra, asked, narrator=SILENT)


@pytest.fixture(scope="module")
def picky(int8_edge, held_out, fashion):
    """A cloud that knows shoes and bags: only who knows the answered class can tell when asking it helps."""
    return routed((int8_edge,), held_out, rows(fashion.train))


def test_the_router_that_routes_best_ships(picky, int8_edge, fashion):
    (tried,) = picky.nauc
    assert set(tried) == {*RULES, "learned"}
    assert picky.kind == max(tried, key=tried.__getitem__)
    assert picky.kind in ("learned", "class_offsets")
    assert tried[picky.kind] > tried[FREE] + 0.1
    program, judged = picky.program, rows(fashion.test)
    said = run_program(program, fashion.test.x, engine="host")
    right = said.logits.argmax(axis=1) == fashion.test.y, judged.cloud.argmax(axis=1) == fashion.test.y
    free = routed((int8_edge,), judged, kind=FREE).program  # even with its temperature fitted on these very examples
    assert nauc(said.score, *right) > nauc(run_program(free, fashion.test.x, engine="host").score, *right) + 0.1


def test_one_stage_is_the_net_as_it_is(picky, int8_edge):
    (stage,) = picky.program.stages
    assert stage.flatbuffer == int8_edge.flatbuffer
    assert stage.look_below == NEVER
    assert stage.reads == "image"
    assert stage.mix.multipliers == (1,)


def test_a_router_stays_within_its_budget(picky, int8_edge):
    net_macs = sum(cost.flatbuffer_macs(int8_edge.flatbuffer).values())
    (stage,) = picky.program.stages
    assert stage.router.parameters <= max(SMALL_NET_PARAMETERS, MACS_SHARE * net_macs)


def test_a_budget_below_that_of_a_small_net_is_kept(int8_edge, held_out):
    made = routed((int8_edge,), held_out, kind="learned", epochs=1, max_parameters=50)
    assert made.program.stages[0].router.parameters <= 50


def test_scores_of_the_held_out_examples_fill_int8_evenly(picky, held_out):
    """They are ranks: a threshold t keeps about (128 - t) / 256 of the examples."""
    score = run_program(picky.program, held_out.split.x, engine="host").score
    for threshold in (-64, 0, 64):
        assert kept(score, threshold).mean() == pytest.approx((128 - threshold) / 256, abs=0.02)


def test_nothing_to_route_takes_the_free_rule(int8_edge, held_out):
    """The cloud gives the edge's own answers: no query changes anything, so every nAUC is 0."""
    own = stage_outputs(int8_edge.flatbuffer, held_out.split.x).own.logits.argmax(axis=1)
    same = replace(held_out, cloud=np.eye(10, dtype=np.float32)[own])
    made = routed((int8_edge,), same, epochs=1)
    assert set(made.nauc[0].values()) == {0.0}
    assert made.kind == FREE


@pytest.mark.parametrize("kind", [FREE, "logit_margin", "gain"])
def test_what_is_asked_for_ships_alone(int8_edge, held_out, kind):
    made = routed((int8_edge,), held_out, kind=kind, epochs=2)
    assert made.kind == kind
    assert made.nauc == ({},)  # nothing to choose from, so nothing is cross-validated


@pytest.fixture(scope="module")
def halves(fashion, edge_net):
    """An early exit: near and far part of the edge in int8, which answer differently."""
    import keras

    keras.utils.set_random_seed(0)  # the near head stays untrained
    asked = spec(look={"kind": "exit"})
    return quantize_stages(EDGE, cut(edge_net, EDGE, asked.look), fashion, None, asked, narrator=SILENT)


@pytest.fixture(scope="module")
def twice(halves, held_out):
    """Device programs of both parts, by the share that is looked at again; routed by the margin."""
    looks = [{"kind": "exit", "share": share} for share in (0.25, 0.6)]
    return {look["share"]: routed(halves, held_out, look=look, kind="logit_margin") for look in looks}


@pytest.mark.parametrize("share", [0.25, 0.6])
def test_the_share_that_is_asked_for_is_looked_at_again(twice, held_out, share):
    """As nearly as int8 margins allow, many of which are equal."""
    said = run_program(twice[share].program, held_out.split.x, engine="host")
    first, second = twice[share].program.stages
    near = first.router.score(stage_outputs(first.flatbuffer, held_out.split.x).own)
    asked = (said.stage == 1).mean()
    assert asked == (near < first.look_below).mean()
    assert abs(asked - share) == min(abs((near < threshold).mean() - share) for threshold in range(-128, 128))
    assert asked == pytest.approx(share, abs=0.05)
    assert (first.reads, second.reads) == ("image", "trunk")
    assert (first.look_below > NEVER, second.look_below) == (True, NEVER)


def test_all_stages_score_on_one_scale(twice, held_out):
    """Over the examples by their last stage, each int8 score is about as frequent as any other; margins have ties."""
    score = run_program(twice[0.6].program, held_out.split.x, engine="host").score
    for threshold in (-64, 0, 64):
        assert kept(score, threshold).mean() == pytest.approx((128 - threshold) / 256, abs=0.05)


def test_the_same_evidence_gives_the_same_program(halves, twice, held_out, fashion):
    again = routed(halves, held_out, look={"kind": "exit", "share": 0.25}, kind="logit_margin")
    first, second = (run_program(made.program, fashion.test.x, engine="host") for made in (twice[0.25], again))
    np.testing.assert_array_equal(first.score, second.score)
    np.testing.assert_array_equal(first.logits, second.logits)
    assert again.nauc == twice[0.25].nauc


def test_threshold_of_by_hand():
    scores = np.array([-3, 0, 0, 5], np.int8)
    # 1 of 4 lies below -2 to 0, 3 of 4 below 1 to 5, all below 6. Of equally near ones the lowest.
    assert threshold_of(scores, 0.2) == -2
    assert threshold_of(scores, 0.8) == 1
    assert threshold_of(scores, 1.0) == 6
    assert threshold_of(scores, 0.0) == NEVER + 1
    assert threshold_of(np.full(4, NEVER, np.int8), 1.0) == NEVER + 1  # everything lies below


def test_agree_is_the_ceiling_where_the_cloud_is_never_wrong(int8_edge, held_out):
    own = stage_outputs(int8_edge.flatbuffer, held_out.split.x).own.logits
    y = held_out.split.y
    assert nauc(agree(own.argmax(axis=1), y, own.max(axis=1)), own.argmax(axis=1) == y, np.ones(len(y), bool)) > 0.999
