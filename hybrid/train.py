"""The training of edge and cloud: the cloud first, the edge with the cloud's help, then both around the router.

Kag et al. 2023 alternate three blocks: the router fits the proxy labels, the edge is trained with weights (2 - r), the
cloud with (1 + r). Router labels come from the calibration split, or from nets that were trained on other folds: never
from examples that the nets have learned by heart.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datasets import Dataset, Split
from datasets.batches import Augment
from hybrid import fitting, look
from hybrid.artifacts import Bools, Floats, NetOutputs
from hybrid.clouds import CloudAnswers, build_cloud, net_answers
from hybrid.nets import build_net
from hybrid.progress import Narrator
from hybrid.router import fit_router, query_targets
from hybrid.specs import ArchSpec, RunSpec
from hybrid.supervision import cloud_weights, edge_weights, proxy_labels, softmax
from hybrid.sweep import area, curve

ROUNDS_RATE_SHARE = 0.1
"""Share of the peak learning rate at which the first training ends and the alternations take over, down to zero."""

CHOOSING_SPLITS = ("calibration", "validation")


@dataclass(frozen=True, kw_only=True)
class RouterRows:
    """What a router is fitted on: `x` stored examples, and what edge and cloud that never saw them say, row by row.

    `query` ``(n,)`` are proxy labels, `cloud_probabilities` ``(n, num_classes)``.
    """

    x: NDArray[np.uint8]
    query: Bools
    cloud_probabilities: Floats

    def targets(self, edge_logits: Floats) -> Floats:
        """Soft proxy labels ``(n,)`` for an edge net with these logits."""
        return query_targets(self.query, edge_logits, self.cloud_probabilities)


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
            return (edge, *(self._second_net(arch, cloud, stage) for stage in range(1, 1 + spec.nets)))
        if spec.kind == "exit":
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
        area_now, query = self._router_round(edge, answers)
        for index in range(self.spec.train.rounds):
            before = [net.get_weights() for net in (edge, cloud) if net is not None]
            new_answers = self._net_round(edge, cloud, answers, query, index)
            area_new, new_query = self._router_round(edge, new_answers)
            rounds.append(Round(area_before=area_now, area_after=area_new, kept=area_new >= area_now))
            if not rounds[-1].kept:
                for net, weights in zip((edge, cloud), before, strict=False):
                    net.set_weights(weights)
                break
            answers, area_now, query = new_answers, area_new, new_query
        return answers, tuple(rounds)

    def held_out_rows(self, edge: NetOutputs, answers: CloudAnswers) -> RouterRows:
        """Router rows of the calibration split, for an edge with these outputs on it."""
        split = self.data.calibration
        cloud = answers.probabilities["calibration"]
        query = proxy_labels(edge.logits.argmax(axis=1) == split.y, cloud.argmax(axis=1) == split.y)
        return RouterRows(x=split.x, query=query, cloud_probabilities=cloud)

    def cross_fitted_rows(self, arch: ArchSpec) -> RouterRows:
        """Router rows of the training split: each fold is labelled by an edge and a cloud trained on the others."""
        rows, folds = self.data.train, self.spec.router.folds
        fold = np.random.default_rng(self.spec.seed).permutation(len(rows)) % folds
        query = np.zeros(len(rows), bool)
        cloud_probabilities = np.zeros((len(rows), self.data.num_classes), np.float32)
        for index in range(folds):
            out = fold == index
            part = Split(x=rows.x[~out], y=rows.y[~out])
            edge_logits, cloud_probabilities[out] = self._fold(arch, part, rows.x[out], f"fold {index + 1} of {folds}")
            query[out] = proxy_labels(
                edge_logits.argmax(axis=1) == rows.y[out], cloud_probabilities[out].argmax(axis=1) == rows.y[out]
            )
        return RouterRows(x=rows.x, query=query, cloud_probabilities=cloud_probabilities)

    def _fold(self, arch: ArchSpec, part: Split, held: NDArray[np.uint8], label: str) -> tuple[Floats, Floats]:
        cloud, edge = self.new_cloud(), self.new_edge(arch)
        self.fit_cloud(cloud, part, label=f"cloud, {label}")
        seen = fitting.predict(cloud, part.x, label=f"cloud, {label}", narrator=self.narrator)
        self.fit_edge(edge, part, softmax(seen.logits), label=f"edge, {label}")
        edge_out = fitting.predict(edge, held, label=f"edge, {label}", narrator=self.narrator)
        cloud_out = fitting.predict(cloud, held, label=f"cloud, {label}", narrator=self.narrator)
        return edge_out.logits, softmax(cloud_out.logits)

    def _router_round(self, edge: Any, answers: CloudAnswers) -> tuple[float, Floats]:
        """Block one: fit the router. Returns the validation area and r(x) on the training split, ``(n_train,)``."""
        outputs = {
            name: fitting.predict(edge, split.x, label=f"edge on {name}", narrator=self.narrator)
            for name, split in self.data.splits.items()
            if name != "test"
        }
        rows = self.held_out_rows(outputs["calibration"], answers)
        targets = rows.targets(outputs["calibration"].logits)
        router = fit_router(
            outputs["calibration"], targets, self.spec.router, seed=self.spec.seed, narrator=self.narrator
        )
        labels = self.data.validation.y
        scores = router.score(outputs["validation"])
        edge_right = outputs["validation"].logits.argmax(axis=1) == labels
        cloud_right = answers.probabilities["validation"].argmax(axis=1) == labels
        query = 1.0 / (1.0 + np.exp(router.score(outputs["train"])))
        return area(curve(scores, edge_right, cloud_right)), query.astype(np.float32)

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
        return answers.updated(net_answers(cloud, self.data, splits=CHOOSING_SPLITS, narrator=self.narrator))

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
