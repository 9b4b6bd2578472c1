"""KD-DETR: a small detector learns from a large one by answering the same questions.

Paper:    Y. Wang et al., "KD-DETR: Knowledge Distillation for Detection Transformer with Consistent Distillation Points
          Sampling", arXiv:2211.08071, read through its abstract, notes about it and two public implementations; what
          these do not settle is our reading and an option here.
Checked:  the same points, bit for bit, enter both decoders; a student that is its teacher has nothing to learn; the
          answers to the student's own queries do not depend on the points (tests/methods/test_kd_detr.py).
Deviates: for Deformable DETR without proposals, the places that random queries look at are computed once, by the
          teacher, and handed to the student (a public implementation lets each network compute its own, so that the two
          answer different questions). Random boxes are logits and pass one sigmoid (a public implementation takes raw
          normal numbers for boxes in 0..1).

A detector's answer belongs to its query, and query i of a student has nothing to do with query i of its teacher. So
both decode a further set of queries that they share: general points, drawn at random for every update, and specific
points, the teacher's own queries. Teacher and points are parts of the Method; the student is exported as if it had
never met them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import paddle
from paddle import Tensor, nn

from ppvision.device import tensor_of
from ppvision.errors import ArgumentError, UserError, at_least, require
from ppvision.losses.detection import Matcher, Predictions, Targets
from ppvision.losses.distillation import PointLoss
from ppvision.methods.group_detr import GroupDetr
from ppvision.models.detr import Detr, Queries, check_detector
from ppvision.models.network import promises
from ppvision.models.queries import Context, QuerySet

__all__ = ["KdDetr", "decode_apart"]

Prediction = tuple[Tensor, Tensor]
Weights = tuple[float, float, float]


class KdDetr(GroupDetr):
    """Detection as in method `group_detr`, and imitation of a frozen teacher.

    Args:
        model: the student.
        teacher: a detector of the same family with the same classes; `weights` in its mapping name its file.
        pairing: what is compared. "points": the answers to shared queries, the method itself. The others are
            comparisons: "none"; "index": query i of one with query i of the other; "matched": predictions that are
            matched to the same object; "hungarian": predictions matched to each other.
        general: number of random points of an update, 0 for none.
        specific: whether the teacher's own queries are points.
        general_dist: where random boxes come from: "normal_logit", logits standard normal; "uniform_box", centres
            anywhere and sides of 0.02 to 0.5 of the picture (our reading of "uniform").
        general_weights: of class divergence, L1 and GIoU at general points.
        specific_weights: likewise at specific points, and of the other pairings.
        temperature: of the class divergence.
        foreground_weight: points count by the teacher's highest class probability.
        reduction: "tp" or "kd", see `PointLoss`.
        cls_form: "softmax_kl" (the paper's) or "bce_kl", see `kl_of_classes`.
        teacher_layers: what a layer of the student learns from: the teacher's "final" layer or the "same" one.
        inherit: what the student starts with of the teacher: "level_embed", "queries". Not part of the method.
        groups: as for method `group_detr`, for the student; 1 is none beyond its own.
        denoising: as for method `group_detr`.
        label_noise: as for method `group_detr`.
        box_noise: as for method `group_detr`.
        loss: of detection, default `SetLoss`.

    Raises:
        UserError: one of the two is no DETR host, or they do not fit each other.
    """

    components = {"loss": "loss", "teacher": "model"}
    frozen = ("teacher",)

    def __init__(
        self,
        model: nn.Layer,
        teacher: nn.Layer,
        pairing: Literal["points", "none", "index", "matched", "hungarian"] = "points",
        general: int = 300,
        specific: bool = True,
        general_dist: Literal["normal_logit", "uniform_box"] = "normal_logit",
        general_weights: Weights = (1.0, 5.0, 2.0),
        specific_weights: Weights = (1.0, 5.0, 2.0),
        temperature: float = 10.0,
        foreground_weight: bool = True,
        reduction: Literal["tp", "kd"] = "tp",
        cls_form: Literal["softmax_kl", "bce_kl"] = "softmax_kl",
        teacher_layers: Literal["final", "same"] = "final",
        inherit: Sequence[Literal["level_embed", "queries"]] = (),
        groups: int = 1,
        denoising: int = 0,
        label_noise: float = 0.5,
        box_noise: float = 1.0,
        loss: nn.Layer | None = None,
    ):
        super().__init__(model, groups, denoising, label_noise, box_noise, loss=loss)
        check_detector(teacher, "method.teacher")
        at_least(0, general=general)
        if pairing == "points" and not general and not specific:
            raise ArgumentError("general", "is 0 and `specific` is false, so that there is nothing to imitate")
        if teacher.num_classes != model.num_classes:
            raise UserError(
                f"method.teacher: answers {teacher.num_classes} classes, the student {model.num_classes}; "
                "set model.num_classes, and load the teacher with the same"
            )
        if pairing == "index" and teacher.num_queries != model.num_queries:
            raise UserError(
                f"method.pairing: index needs as many queries in the teacher ({teacher.num_queries}) as in the student "
                f"({model.num_queries})"
            )
        self.teacher: Detr = teacher
        self.pairing = pairing
        self.general = general
        self.specific = specific
        self.general_dist = general_dist
        self.same_layers = teacher_layers == "same"
        given = (temperature, foreground_weight, reduction, cls_form)
        self.general_loss, self.specific_loss = (
            PointLoss(*general_weights, *given),
            PointLoss(*specific_weights, *given),
        )
        self.matcher = Matcher()
        # content and positions of another width reach the student through a matrix of its own, trained with it
        wide = teacher.dim != model.dim and pairing == "points"
        self.project = nn.Linear(teacher.dim, model.dim) if wide and teacher.query_content else None
        for part in inherit:
            _inherit(part, model, teacher)
        self._draws: dict[str, np.ndarray] = {}

    def begin(self, step: int, seed: int, rank: int) -> None:
        """Draws the general points of an update: one draw for all its micro-batches and processes."""
        super().begin(step, seed, rank)
        self._draws = {}

    def draw(self, name: str, width: int) -> np.ndarray:
        """[1,general,width] of this update, standard normal, or uniform in 0..1 for "uniform"."""
        if name not in self._draws:
            sample = self.shared_rng.random if name == "uniform" else self.shared_rng.standard_normal
            self._draws[name] = sample((1, self.general, width)).astype(np.float32)
        return self._draws[name]

    def losses(self, phase: str, batch: dict[str, Any]) -> dict[str, Tensor]:
        context = self.model.encode(batch["image"], batch.get("valid"))
        terms, own = self.detect(context, batch)
        if self.pairing == "none":
            return terms
        with paddle.no_grad():
            taught = self.teacher.encode(batch["image"], batch.get("valid"))
            asked = self.teacher.own_queries(taught)
        if self.pairing != "points":
            with paddle.no_grad():
                expected = self.teacher.decode(taught, asked)
            first = [(c[:, : self.model.num_queries], b[:, : self.model.num_queries]) for c, b in own]
            return {**terms, **self.compare_pairs(first, expected, batch["targets"])}
        points = self.points(taught, asked)
        with paddle.no_grad():
            expected = decode_apart(self.teacher, taught, list(points.values()))
        predictions = decode_apart(self.model, context, [self.for_student(q) for q in points.values()])
        for name, teacher, student in zip(points, expected, predictions, strict=True):
            terms |= self.imitate(name, student, teacher)
        return terms

    def points(self, context: Context, own: QuerySet) -> dict[str, QuerySet]:
        """Shared queries by name, without gradient.

        Args:
            context: the teacher's.
            own: the teacher's own queries for this picture.
        """
        sets = {}
        if self.specific:
            sets["specific"] = replace(own, proposals=None)
        if self.general:
            sets["general"] = self.random_points(own)
        return {
            name: replace(
                q,
                references=q.references.detach(),
                content=None if q.content is None else q.content.detach(),
                positions=None if q.positions is None else q.positions.detach(),
            )
            for name, q in sets.items()
        }

    def random_points(self, like: QuerySet) -> QuerySet:
        """Random queries of the kind that the teacher asks itself; what belongs to a place is computed by the teacher,
        once.
        """
        with paddle.no_grad():
            queries = promises(self.teacher.queries, Queries)
            if queries.offers("of_places"):
                content, positions = (tensor_of(self.draw(k, self.teacher.dim)) for k in ("content", "positions"))
                return queries.of_places(positions, content)
            if self.general_dist == "normal_logit":
                references = tensor_of(self.draw("references", 4))
            else:
                boxes = self.draw("uniform", 4).clip(1e-4, 1.0 - 1e-4)
                boxes[..., 2:] = 0.02 + 0.48 * boxes[..., 2:]
                references = tensor_of(np.log(boxes / (1.0 - boxes)))
            made = queries.of_boxes(references)
            if made is not None:
                return made
            content = None if like.content is None else tensor_of(self.draw("content", self.teacher.dim))
            return QuerySet(references, content)

    def for_student(self, queries: QuerySet) -> QuerySet:
        """The same references; content and positions in the student's width."""
        if self.project is None:
            return queries
        content, positions = (None if x is None else self.project(x) for x in (queries.content, queries.positions))
        return replace(queries, content=content, positions=positions)

    def imitate(self, name: str, student: list[Prediction], teacher: list[Prediction]) -> dict[str, Tensor]:
        """Terms `name/*` of all layers of the student together."""
        loss = self.general_loss if name == "general" else self.specific_loss
        terms: dict[str, Tensor] = {}
        for predictions, expected in zip(student, self.lessons(student, teacher), strict=True):
            for key, value in loss(predictions, expected).items():
                terms[f"{name}/{key}"] = terms.get(f"{name}/{key}", 0.0) + value
        return terms

    def lessons(self, student: Sequence[Prediction], teacher: Sequence[Prediction]) -> list[Prediction]:
        """What each layer of the student learns from.

        Raises:
            UserError: layer-wise lessons need as many layers in the teacher.
        """
        if not self.same_layers:
            return [teacher[-1]] * len(student)
        if len(teacher) != len(student):
            raise UserError(
                f"method.teacher_layers: 'same' needs as many decoder layers in the teacher ({len(teacher)}) as in the "
                f"student ({len(student)}); set it to 'final'"
            )
        return list(teacher)

    def compare_pairs(
        self, student: list[Prediction], teacher: list[Prediction], targets: Targets
    ) -> dict[str, Tensor]:
        """Terms `pairs/*` of the comparisons, which share no queries."""
        terms: dict[str, Tensor] = {}
        for predictions, expected in zip(student, self.lessons(student, teacher), strict=True):
            for key, value in self.pair(predictions, expected, targets).items():
                terms[f"pairs/{key}"] = terms.get(f"pairs/{key}", 0.0) + value
        return terms

    def pair(self, student: Prediction, teacher: Prediction, targets: Targets) -> dict[str, Tensor]:
        """Terms of one layer."""
        if self.pairing == "index":
            return self.specific_loss(student, teacher)
        if self.pairing == "matched":
            (mine,), (theirs,) = (self.matcher([Predictions.of([a])], targets) for a in (student, teacher))
            order = [np.argsort(m.columns[0], kind="stable") for m in (mine, theirs)]
            pairs = mine.rows[0][order[0]], theirs.rows[0][order[1]]
            if mine.columns[0][order[0]].tolist() != theirs.columns[0][order[1]].tolist():
                both = np.intersect1d(mine.columns[0], theirs.columns[0])  # fewer queries than objects in one of them
                pairs = tuple(
                    m.rows[0][o][np.isin(m.columns[0][o], both)] for m, o in zip((mine, theirs), order, strict=True)
                )
        else:
            logits, boxes = (x.detach().astype("float32") for x in teacher)
            labels = logits.argmax(-1)
            count = np.full(logits.shape[0], logits.shape[1], np.int64)
            (found,) = self.matcher(
                [Predictions.of([student])], Targets(boxes, labels, count, labels.numpy(), targets.names)
            )
            pairs = found.rows[0], found.columns[0]
        if not len(pairs[0]):
            return {"cls": 0.0 * student[0].sum(), "l1": 0.0 * student[1].sum(), "giou": 0.0 * student[1].sum()}
        predictions, expected = (
            tuple(paddle.gather(x.flatten(0, 1), tensor_of(rows)).unsqueeze(0) for x in prediction)
            for rows, prediction in zip(pairs, (student, teacher), strict=True)
        )
        return self.specific_loss(predictions, expected)


def decode_apart(host: Detr, context: Context, sets: Sequence[QuerySet]) -> list[list[Prediction]]:
    """Answers of each set as if it was asked alone: sets of one size go through the decoder as groups, others one after
    the other.
    """
    if len({q.references.shape[1] for q in sets}) > 1 or len({q.references.shape[-1] for q in sets}) > 1:
        return [host.decode(context, q) for q in sets]
    batch = context.memory.shape[0]
    whole = sets[0] if len(sets) == 1 else QuerySet.stack(sets, batch)
    layers = host.decode(context, whole)
    size = sets[0].references.shape[1]
    return [
        [(c[:, i * size : (i + 1) * size], b[:, i * size : (i + 1) * size]) for c, b in layers]
        for i in range(len(sets))
    ]


def _inherit(part: str, student: nn.Layer, teacher: nn.Layer) -> None:
    if part == "queries":
        source, target = teacher.queries.state_dict(), student.queries.state_dict()
    else:
        source, target = ({k: v for k, v in n.state_dict().items() if "level_embed" in k} for n in (teacher, student))
    fitting = [k for k in target if k in source and target[k].shape == source[k].shape]
    require(bool(fitting), "inherit", f"'{part}' of the teacher does not fit the student")
    for key in fitting:
        target[key].set_value(source[key])
