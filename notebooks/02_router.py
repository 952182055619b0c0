# ---
# jupyter:
#   jupytext:
#     formats: py:percent,ipynb
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A router for nets of your own
#
# You have an edge net, from PyTorch or anything else, and an API that answers better but costs time and money. Which
# examples are worth a query? `hybrid.Router` learns it from arrays: what the edge said, what the cloud said, and what
# was right. No TensorFlow, nothing else of this project.

# %%
import time

import matplotlib.pyplot as plt
import numpy as np

import datasets
from hybrid import Router, policy, sweep

# %% [markdown]
# ## Your arrays
#
# Four arrays of examples that **neither net was trained on** (a net is too sure of what it has learned by heart):
#
# - `logits` `(n, num_classes)` of the edge;
# - `features` `(n, width)`, its last hidden layer: optional, and worth having;
# - `labels` `(n,)`;
# - `cloud`: the API's probabilities `(n, num_classes)`, or just its answers `(n,)`.
#
# Here two quick stand-ins make them from Fashion-MNIST: a small net of random features on 7 x 7 pixels is the edge, a
# large one on all pixels the cloud. Replace this cell by your own `np.load`.

# %%
data = datasets.load("fashion_mnist", limit=24000)
rng = np.random.default_rng(0)


def pixels(split, pooled):
    images = split.x.reshape(len(split.x), 28, 28).astype(np.float32) / 255
    images = images.reshape(len(images), 28 // pooled, pooled, 28 // pooled, pooled).mean(axis=(2, 4))
    return images.reshape(len(images), -1)


def random_features(width, pooled):
    fan_in = (28 // pooled) ** 2
    weights = rng.normal(size=(fan_in, width)).astype(np.float32) * np.sqrt(2 / fan_in)
    return lambda split: np.maximum((pixels(split, pooled) - 0.3) @ weights, 0)


def ridge(features, labels):
    x = np.column_stack([features, np.ones(len(features))])
    return np.linalg.solve(x.T @ x + 0.1 * np.eye(x.shape[1]), x.T @ np.eye(10)[labels])


def stand_in(width, pooled):
    """A net as a function: a split to features and logits."""
    hidden = random_features(width, pooled)
    weights = 10 * ridge(hidden(data.train), data.train.y)
    return lambda split: (hidden(split), np.column_stack([hidden(split), np.ones(len(split.x))]) @ weights)


edge_net, cloud_net = stand_in(48, 4), stand_in(1500, 1)


def arrays(split):
    features, logits = edge_net(split)
    return {"logits": logits, "labels": split.y, "cloud": cloud_net(split)[1], "features": features}


fit_on, calibrate_on, test = (arrays(part) for part in (data.validation, data.calibration, data.test))
for name in ("logits", "cloud"):
    print(
        name, f"{(test[name].argmax(axis=1) == test['labels']).mean():.1%} right on {len(test['labels'])} test examples"
    )

# %% [markdown]
# ## Fit
#
# `kind="auto"` compares learned routers with rules that need no learning, by cross-validation: nAUC is 0 for asking by
# lot and 1 for an oracle that knows both answers and the truth. Where learning buys nothing, the free rule (the largest
# softmax probability) is kept, and you have spent nothing.

# %%
start = time.perf_counter()
router = Router(random_state=0).fit(**fit_on)
print(f"fitted on {len(fit_on['labels'])} examples in {time.perf_counter() - start:.1f} s; chosen: {router.kind_}")
for kind, reached in sorted(router.reached_.items(), key=lambda item: -item[1].mean):
    print(f"  {kind:14} nAUC {reached.mean:.3f} +- {reached.spread:.3f}")

# %% [markdown]
# ## Policies side by side
#
# On test examples. `agree` is the ceiling of what can be learned about a cloud: ask exactly where the two differ. The
# oracle also knows which of them is right; nobody does.

# %%
edge_class, cloud_class = (test[name].argmax(axis=1) for name in ("logits", "cloud"))
edge_right, cloud_right = edge_class == test["labels"], cloud_class == test["labels"]
held_query = (fit_on["logits"].argmax(axis=1) != fit_on["labels"]) & (
    fit_on["cloud"].argmax(axis=1) == fit_on["labels"]
)
scores = {
    "random": policy.random(len(edge_right), np.random.default_rng(0)),
    **{name: rule(test["logits"]) for name, rule in policy.BASELINES.items()},
    "two scores": policy.fit_two_scores(fit_on["logits"], held_query)(test["logits"]),
    "class offsets": policy.fit_class_offsets(fit_on["logits"], held_query)(test["logits"]),
    "router": router.score(test["logits"], test["features"]),
    "agree": policy.agree(edge_class, cloud_class, policy.margin(test["logits"])),
    "oracle": policy.oracle(edge_right, cloud_right),
}
curves = {name: sweep.curve(score, edge_right, cloud_right) for name, score in scores.items()}
shares = (0.9, 0.8, 0.7)
print(f"{'':14} nAUC   accuracy at " + "  ".join(f"{share:.0%}" for share in shares) + " coverage")
for name, curve in curves.items():
    at = np.interp(shares, curve.coverage[::-1], curve.accuracy[::-1])
    nauc = sweep.nauc(scores[name], edge_right, cloud_right)
    print(f"{name:14} {nauc:5.3f}              " + "  ".join(f"{one:.1%}" for one in at))

# %%
figure, axes = plt.subplots(figsize=(6, 4))
for name in ("random", "max_softmax", "entropy", "router", "agree", "oracle"):
    axes.plot(curves[name].coverage, curves[name].accuracy, label=name, lw=2 if name == "router" else 1)
axes.set(xlabel="coverage: share answered on the edge", ylabel="accuracy of edge and cloud together")
axes.legend()
# %% [markdown]
# ## A threshold
#
# Take it from examples that `fit` has not seen. `certify` picks the most useful threshold that holds what you ask on
# new examples like these, with the confidence that you ask: it allows for the chance in the calibration examples.
# `router.threshold` gives the one that just holds on these examples; on new ones it will often miss.

# %%
certificate = router.certify(
    calibrate_on["logits"],
    calibrate_on["labels"],
    calibrate_on["cloud"],
    calibrate_on["features"],
    max_loss=0.01,
    confidence=0.9,
)
kept = router.kept(test["logits"], test["features"], threshold=certificate.threshold)
hybrid_right = np.where(kept, edge_right, cloud_right)
print(f"threshold {certificate.threshold}: {certificate.statement}")
print(
    f"test: {kept.mean():.1%} answered on the edge, {100 * (cloud_right.mean() - hybrid_right.mean()):.2f} points below"
)

# %% [markdown]
# ## On the device
#
# The score is made of integers alone, with sums that fit 32 bits, and is the same on any machine. `router.stored`
# says how float arrays become int8; a quantised edge net gives `int8` logits and features itself: pass those to `fit`
# and the router reads them as they are.

# %%
stored = router.stored(test["logits"], test["features"])
print(router.integer_.parameters, "parameters,", router.integer_.macs, "multiply-accumulates,", stored.logits.dtype)
print(bool((router.integer_.score(stored) == router.score(test["logits"], test["features"])).all()))
