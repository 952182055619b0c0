"""The training of edge and cloud: the cloud first, the edge with the cloud's help, then both around the router.

Kag et al. 2023 alternate three blocks: the router fits the proxy labels, the edge is trained with weights (2 - r), the
cloud with (1 + r). Here the router of the rounds learns from half of the validation split, and the other half says
whether a round helped.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from datasets import Dataset, Split
from datasets.batches import Augment
from hybrid import fitting, look
from hybrid.artifacts import Floats
from hybrid.checkpoint import Checkpoint
from hybrid.clouds import CloudAnswers, build_cloud, net_answers
from hybrid.estimator import Router
from hybrid.nets import build_net
from hybrid.perceptron import sigmoid
from hybrid.progress import Narrator
from hybrid.routing import Rows
from hybrid.specs import ArchSpec, RunSpec
from hybrid.supervision import cloud_weights, edge_weights, softmax
from hybrid.sweep import area, curve

ROUNDS_RATE_SHARE = 0.1
"""Share of the peak learning rate at which the first training ends and the alternations take over, down to zero."""

HELD_OUT_SPLITS = ("calibration", "validation")


@dataclass(frozen=True, kw_only=True)
class Round:
    """One alternation: the area under the validation accuracy-coverage curve before and after, and if it was kept."""

    area_before: float
    area_after: float
    kept: bool


@dataclass(frozen=True, kw_only=True)
class Trainer:
    """Everything that the steps of one run's training share."""

    data: Dataset
    spec: RunSpec
    narrator: Narrator
    checkpoints: Path | None = None
    """Folder in which every training of one step keeps where it stands; None: nowhere."""

    def new_cloud(self) -> Any:
        """An untrained cloud net, None for a black box; the spec's seed sets its first weights."""
        self._seed()
        return build_cloud(self.data, self.spec.cloud)

    def new_edge(self, arch: ArchSpec, *, stage: int = 0) -> Any:
        """An untrained edge net; the spec's seed and the stage set its first weights."""
        self._seed(stage)
        return build_net(arch)

    def fit_cloud(self, net: Any, rows: Split, *, label: str = "cloud") -> None:
        """First training of a cloud net, in place."""
        spec = self.spec
        self._fit(
            net,
            rows,
            label=label,
            epochs=spec.cloud.epochs,
            rate=self._first_rate(spec.train.cloud_learning_rate),
            smoothing=spec.train.label_smoothing,
        )

    def fit_edge(self, net: Any, rows: Split, cloud: Floats | None, *, label: str = "edge") -> None:
        """First training of an edge net, in place; distilled from the cloud's probabilities on `rows` where given."""
        train = self.spec.train
        rate = self._first_rate(train.edge_learning_rate)
        self._fit(net, rows, label=label, epochs=train.edge_epochs, rate=rate, cloud=cloud)

    def fit_looks(self, edge: Any, arch: ArchSpec, cloud: Floats | None) -> tuple[Any, ...]:
        """The nets of all stages that the spec asks for, from a trained `edge` (see `hybrid.look`)."""
        spec = self.spec.look
        if spec.kind == "net":
            further = look.stage_archs(arch, spec)[1:]
            return (edge, *(self._second_net(one, cloud, stage) for stage, one in enumerate(further, 1)))
        if spec.kind == "exit":
            self._seed(1)  # the near head's first weights
            near, far = look.cut(edge, arch, spec)
            self._fit_from_zero(near, cloud, label="exit")
            return near, far
        return (edge,)

    def _second_net(self, arch: ArchSpec, cloud: Floats | None, stage: int) -> Any:
        net = self.new_edge(arch, stage=stage)
        self._fit_from_zero(net, cloud, label=f"second look {stage}", seed=self.spec.seed + stage * look.SEED_STEP)
        return net

    def _fit_from_zero(self, net: Any, cloud: Floats | None, *, label: str, seed: int | None = None) -> None:
        """One whole training, down to a learning rate of zero."""
        train = self.spec.train
        rate = fitting.Rate(peak=train.edge_learning_rate)
        self._fit(net, self.data.train, label=label, epochs=train.edge_epochs, rate=rate, cloud=cloud, seed=seed)

    def alternate(self, edge: Any, cloud: Any, answers: CloudAnswers) -> tuple[CloudAnswers, tuple[Round, ...]]:
        """Alternate router, edge and cloud in place; a round that does not help on the validation split is undone.

        `cloud` is None for a black box, which stays as it is.
        """
        rounds: list[Round] = []
        area_now, router = self._router_round(edge, answers)
        for index in range(self.spec.train.rounds):
            before = [net.get_weights() for net in (edge, cloud) if net is not None]
            new_answers = self._net_round(edge, cloud, answers, self._query(edge, router), index)
            area_new, new_router = self._router_round(edge, new_answers)
            rounds.append(Round(area_before=area_now, area_after=area_new, kept=area_new >= area_now))
            if not rounds[-1].kept:
                for net, weights in zip((edge, cloud), before, strict=False):
                    net.set_weights(weights)
                break
            answers, area_now, router = new_answers, area_new, new_router
        return answers, tuple(rounds)

    def held_out_rows(self, answers: CloudAnswers) -> Rows:
        """The validation split: no net has learned it."""
        return Rows(split=self.data.validation, cloud=answers.probabilities["validation"])

    def seen_rows(self, cloud: Floats) -> Rows:
        """As much of the training split as the spec allows, with the cloud's probabilities for all of it."""
        split, limit = self.data.train, self.spec.router.rows
        if not 0 < limit < len(split):
            return Rows(split=split, cloud=cloud)
        rows = np.sort(np.random.default_rng(self.spec.seed).permutation(len(split))[:limit])
        return Rows(split=Split(x=split.x[rows], y=split.y[rows]), cloud=cloud[rows])

    def cross_fitted(self) -> Floats:
        """The cloud's probabilities on the training split, of each fold by a cloud trained on the others."""
        rows, folds = self.data.train, self.spec.router.folds
        fold = np.random.default_rng(self.spec.seed).permutation(len(rows)) % folds
        probabilities = np.zeros((len(rows), self.data.num_classes), np.float32)
        for index in range(folds):
            out, label = fold == index, f"cloud, fold {index + 1} of {folds}"
            net = self.new_cloud()
            self.fit_cloud(net, Split(x=rows.x[~out], y=rows.y[~out]), label=label)
            said = fitting.predict(net, rows.x[out], label=label, narrator=self.narrator)
            probabilities[out] = softmax(said.logits)
        return probabilities

    def _router_round(self, edge: Any, answers: CloudAnswers) -> tuple[float, Router]:
        """Block one: fit the router on the float edge's outputs; half of the validation split teaches, half judges.

        Returns the area under the judging half's accuracy-coverage curve, and the router.
        """
        split, cloud = self.data.validation, answers.probabilities["validation"]
        said = fitting.predict(edge, split.x, label="edge on validation", narrator=self.narrator)
        taught, judged = np.array_split(np.random.default_rng(self.spec.seed).permutation(len(split)), 2)
        router = Router(kind="learned", teachers=0, random_state=self.spec.seed)
        router.fit(said.logits[taught], split.y[taught], cloud[taught], said.features[taught])
        scores = router.score(said.logits[judged], said.features[judged])
        edge_right = said.logits[judged].argmax(axis=1) == split.y[judged]
        cloud_right = cloud[judged].argmax(axis=1) == split.y[judged]
        return area(curve(scores, edge_right, cloud_right)), router

    def _query(self, edge: Any, router: Router) -> Floats:
        """r(x) on the training split, ``(n,)``."""
        said = fitting.predict(edge, self.data.train.x, label="edge on train", narrator=self.narrator)
        query = sigmoid(-router.net_.raw(router.stored(said.logits, said.features)))
        return query.astype(np.float32)

    def _net_round(self, edge: Any, cloud: Any, answers: CloudAnswers, query: Floats, index: int) -> CloudAnswers:
        """Blocks two and three: the edge with weights (2 - r), the cloud with (1 + r); returns the cloud's answers."""
        train = self.spec.train
        self._fit(
            edge,
            self.data.train,
            label=f"edge, round {index + 1}",
            epochs=train.round_epochs,
            rate=self._round_rate(train.edge_learning_rate, index),
            cloud=answers.probabilities.get("train"),
            weights=edge_weights(query),
            seed=self.spec.seed + index + 1,
        )
        if cloud is None:
            return answers
        self._fit(
            cloud,
            self.data.train,
            label=f"cloud, round {index + 1}",
            epochs=train.round_epochs,
            rate=self._round_rate(train.cloud_learning_rate, index),
            smoothing=train.label_smoothing,
            weights=cloud_weights(query),
            seed=self.spec.seed + index + 1,
        )
        return answers.updated(net_answers(cloud, self.data, splits=HELD_OUT_SPLITS, narrator=self.narrator))

    def _seed(self, stage: int = 0) -> None:
        import keras

        keras.utils.set_random_seed(self.spec.seed + stage * look.SEED_STEP)

    def _first_rate(self, peak: float) -> fitting.Rate:
        return fitting.Rate(peak=peak, end=peak * ROUNDS_RATE_SHARE if self.spec.train.rounds else 0.0)

    def _round_rate(self, peak: float, index: int) -> fitting.Rate:
        """The rounds share one line down to zero."""
        step = peak * ROUNDS_RATE_SHARE / self.spec.train.rounds
        left = self.spec.train.rounds - index
        return fitting.Rate(peak=peak, start=step * left, end=step * (left - 1))

    def _fit(
        self,
        net: Any,
        rows: Split,
        *,
        label: str,
        epochs: int,
        rate: fitting.Rate,
        cloud: Floats | None = None,
        weights: Floats | None = None,
        smoothing: float = 0.0,
        seed: int | None = None,
    ) -> None:
        train = self.spec.train
        alpha = 0.0 if cloud is None else train.distillation
        name = f"{label.replace(',', '').replace(' ', '-')}.npz"
        fitting.fit(
            net,
            rows.x,
            rows.y,
            fitting.targets(rows.y, self.data.num_classes, cloud, temperature=train.temperature, smoothing=smoothing),
            weights=weights,
            epochs=epochs,
            batch_size=train.batch_size,
            rate=rate,
            weight_decay=train.weight_decay,
            loss=fitting.distillation_loss(alpha=alpha, temperature=train.temperature),
            augment=self.augment,
            seed=self.spec.seed if seed is None else seed,
            label=label,
            narrator=self.narrator,
            checkpoint=None if self.checkpoints is None else Checkpoint(path=self.checkpoints / name),
        )

    @property
    def augment(self) -> Augment:
        """The augmentation that the spec asks for and the data allows."""
        train = self.spec.train
        return Augment(
            mirror=train.flip and self.data.mirror,
            crop_pixels=train.crop_pixels,
            cutout_pixels=train.cutout_pixels,
            mixup=train.mixup,
        )
