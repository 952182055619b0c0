# ---
# jupyter:
#   jupytext:
#     formats: py:percent,ipynb
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Quickstart: from labelled images to a microcontroller bundle
#
# A tiny int8 net runs on your board. A router beside it knows when it is likely to be wrong *and* the cloud is likely
# to be right; only then the example is sent. This notebook walks the whole line in about a minute, on a sample of
# Fashion-MNIST: a rehearsal of `hybrid run`, with the same functions.

# %%
from pathlib import Path
from tempfile import mkdtemp

import numpy as np

from datasets.card import card, card_text
from firmware_export.verify import verify
from hybrid import policy, sweep
from hybrid.configure import run_spec
from hybrid.pipeline import Run
from hybrid.progress import SILENT

# %% [markdown]
# ## What is asked
#
# A spec is a preset and what you change of it, with the keys of `--set` on the command line. Leave out the rehearsal's
# settings and you have `make demo`.

# %%
REHEARSAL = (
    "data.limit=3000",
    "data.calibration_fraction=0.03",
    "data.validation_fraction=0.03",
    "search.max_macs=400_000",
    "search.trials=8",
    "search.rows=1000",
    "search.supernet_epochs=1",
    "search.supernet_rows=1000",
    "train.edge_epochs=2",
    "cloud.width=8",
    "cloud.epochs=2",
    "router.epochs=10",
)
spec = run_spec(preset_name="quick", assignments=REHEARSAL)
run = Run(Path(mkdtemp()) / "quickstart", spec)
print(spec.device, spec.link, spec.train)

# %% [markdown]
# ## The data
#
# Four disjoint splits: `train` fits the nets, `calibration` the router, `validation` chooses, `test` only confirms.

# %%
print(card_text(card(run.data)))

# %% [markdown]
# ## The pair
#
# Costs come first: what does not fit the board is never scored. An edge net is scored together with the cloud, with
# weights that it inherits from a supernet: hybrid accuracy behind a quickly fitted router.

# %%
for c in run.searched.front:
    print(f"{c.arch.name}  {c.macs:>9,} MACs  {c.flash_bytes:>7,} B flash  {c.score.hybrid_accuracy:>6.1%}")
run.searched.edge

# %% [markdown]
# ## Training
#
# The cloud learns first and teaches the edge. Then router, edge and cloud alternate: the router learns the proxy labels
# (edge wrong and cloud right), the edge is trained with weights 2 - r, the cloud with 1 + r.

# %%
print(run.trained.rounds)

# %% [markdown]
# ## Int8, and the router on top
#
# Post-training quantisation and quantisation-aware training compete; the router is fitted on what the *int8* net says
# and becomes integer C beside it. Learned routers must beat the free rules to be shipped.

# %%
print([edge.validation_accuracy for edge in run.quantized.edges])
print(run.quantized.routed.nauc)
print(run.quantized.footprint)

# %% [markdown]
# ## Who answers, and what it costs
#
# Every threshold of the score is an operating point. The chosen one is confirmed on test examples.

# %%
for p in (*run.swept.named, run.swept.confirmed):
    print(f"{p.name:15} coverage {p.coverage:5.1%}  accuracy {p.accuracy:6.2%}  {p.mean_latency_ms:7.1f} ms")

# %%
test = run.swept.test
scores = {"router": test.router_score} | {name: rule(test.edge_logits) for name, rule in policy.BASELINES.items()}
for name, score in scores.items():
    print(f"{name:12} nAUC {sweep.nauc(score, test.edge_right, test.cloud_right):.3f}")

# %% [markdown]
# ## The bundle
#
# Model, firmware sources, golden vectors, cloud endpoint. `verify` runs the golden vectors through TensorFlow Lite
# Micro, bit for bit. At coverage 1 the hybrid is the edge alone.

# %%
print(verify(run.bundle, SILENT))
print(sorted(path.name for path in run.bundle.iterdir()))
keep_all = policy.kept(test.router_score, -128)
print(np.where(keep_all, test.edge_right, test.cloud_right).mean() == test.edge_right.mean())
