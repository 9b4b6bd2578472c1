"""What the detectors of the DETR family share: an encoder that looks at the picture once, and a decoder that answers
any set of queries about it.

Papers:   N. Carion et al., "End-to-End Object Detection with Transformers", arXiv:2005.12872; Q. Chen et al., "Group
          DETR", arXiv:2207.13085 (groups of queries); Y. Wang et al., "KD-DETR", arXiv:2211.08071 (queries from
          outside).
Deviates: queries are a value, not a habit of the network. A network decodes the queries it is handed: its own at
          inference, further groups, noised boxes or a teacher's points while training. So nothing of the latter is part
          of the network.

Names of axes: B batch, S tokens of the memory, L levels, N queries, T queries of a group, K classes, d width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import paddle
from paddle import Tensor, nn

from ppvision.errors import UserError
from ppvision.models.network import IMAGE, VALID, Input, Network, promises
from ppvision.nn.promises import Promises

__all__ = ["Context", "Detr", "Proposals", "Queries", "QuerySet", "fold_groups", "unfold_groups"]


@dataclass
class Context:
    """A picture as the decoder sees it.

    Attributes:
        memory: [B,S,d], the levels one after the other, finest first.
        valid: bool [B,S], True where a token is part of the picture; None: everywhere.
        shapes: (height, width) of each level; numbers, or tensors in a static graph.
        positions: [B,S,d] for networks whose cross-attention adds positions to its keys; else None.
        valid_ratios: [B,L,2], share of each level's (width, height) that is picture; None: 1.
    """

    memory: Tensor
    valid: Tensor | None
    shapes: Sequence[tuple]
    positions: Tensor | None = None
    valid_ratios: Tensor | None = None


@dataclass
class Proposals:
    """Predictions of a two-stage encoder, with gradient, for its own loss.

    Attributes:
        logits: [B,P,K].
        boxes: [B,P,4], cxcywh in 0..1.
        binary: only "object or not" is learned (class 0 stands for every object): Deformable DETR. Otherwise P are the
            selected tokens and K the real classes: DINO.
        chosen: int64 [B,N], the tokens that became queries.
        scores: [B,S] of all tokens, by which they were chosen.
    """

    logits: Tensor
    boxes: Tensor
    binary: bool = False
    chosen: Tensor | None = None
    scores: Tensor | None = None


@dataclass
class QuerySet:
    """Questions to a decoder.

    Attributes:
        references: [B or 1, N, 4] boxes (cxcywh) or [.., N, 2] points, as **logits**, never in 0..1.
        content: [B or 1, N, d], or None for networks that start from zeros.
        positions: [B or 1, N, d] learned positional part, where a network has one (Deformable DETR, one stage).
        mask: bool [T,T], True where query i may attend to query j; the same for each group; None: everywhere.
        groups: N = groups x T; self-attention stays inside a group, so each is answered as if alone.
        proposals: what the encoder predicted while it chose these queries, if it did.
    """

    references: Tensor
    content: Tensor | None = None
    positions: Tensor | None = None
    mask: Tensor | None = None
    groups: int = 1
    proposals: Proposals | None = None

    def expand(self, batch: int | Tensor) -> QuerySet:
        """Every part with a first axis of `batch`."""

        def wide(x: Tensor | None) -> Tensor | None:
            return x if x is None or x.shape[0] != 1 or batch == 1 else x.expand([batch, *x.shape[1:]])

        return replace(
            self, references=wide(self.references), content=wide(self.content), positions=wide(self.positions)
        )

    @staticmethod
    def join(sets: Sequence[QuerySet], batch: int, *, mask: Tensor | None = None) -> QuerySet:
        """One group out of several sets that see each other as far as `mask` allows; proposals are the last set's."""
        return replace(_cat(sets, batch), mask=mask, groups=1, proposals=sets[-1].proposals)

    @staticmethod
    def stack(sets: Sequence[QuerySet], batch: int) -> QuerySet:
        """Groups that do not see each other. All must be single groups of one size, with the first one's mask."""
        sizes = {s.references.shape[1] for s in sets}
        if len(sizes) != 1 or any(s.groups != 1 for s in sets):
            raise ValueError(f"groups of one size are needed, got {sorted(sizes)}")
        return replace(_cat(sets, batch), mask=sets[0].mask, groups=len(sets), proposals=None)


def _cat(sets: Sequence[QuerySet], batch: int) -> QuerySet:
    wide = [s.expand(batch) for s in sets]

    def column(name: str) -> Tensor | None:
        parts = [getattr(s, name) for s in wide]
        if any(p is None for p in parts):
            if not all(p is None for p in parts):
                raise ValueError(f"some query sets have {name}, others have none")
            return None
        return paddle.concat(parts, axis=1)

    return QuerySet(column("references"), column("content"), column("positions"))


def fold_groups(x: Tensor, groups: int) -> Tensor:
    """[B, groups*T, d] -> [groups*B, T, d], group-major: every group becomes a sample of its own."""
    if groups == 1:
        return x
    batch, count, dim = x.shape
    return x.reshape([batch, groups, count // groups, dim]).transpose([1, 0, 2, 3]).flatten(0, 1)


def unfold_groups(x: Tensor, groups: int) -> Tensor:
    """Inverse of `fold_groups`."""
    if groups == 1:
        return x
    rows, count, dim = x.shape
    return x.reshape([groups, rows // groups, count, dim]).transpose([1, 0, 2, 3]).reshape([-1, groups * count, dim])


class Queries(Promises):
    """Base of what asks a detector's own questions, called as `queries(context)`.

    A network that chooses tokens of its memory takes `queries(context, chosen)` as well.
    """

    def of_boxes(self, references: Tensor) -> QuerySet | None:
        """Queries for boxes [B,N,4], given as logits; None: a box alone makes no query."""
        return None

    def of_places(self, positions: Tensor, content: Tensor) -> QuerySet | None:
        """Queries for learned positions and content, both [B,N,d]; None: they have references of their own."""
        return None

    def usual_content(self) -> Tensor | None:
        """The mean content [d] of its queries, for a box that is asked about alone; None: content is made of the box,
        or there is none.
        """
        return None


class Detr(Network):
    """Base of the detectors. A subclass sets `num_classes`, `num_queries`, `dim` and `queries`, and offers `encode`,
    `decode` and `new_queries`.

    Attributes:
        num_queries: N.
        dim: d, the width of memory and content.
    """

    num_queries: int
    dim: int

    def inputs(self) -> dict[str, Input]:
        """See `Network`."""
        return {"image": IMAGE, "valid": VALID}

    def own_queries(self, context: Context) -> QuerySet:
        """The queries of inference."""
        return self.queries(context)

    def forward(self, image: Tensor, valid: Tensor | None = None) -> dict[str, Tensor]:
        """Logits [B,N,K] and boxes [B,N,4] of the last layer."""
        context = self.encode(image, valid)
        logits, boxes = self.decode(context, self.own_queries(context))[-1]
        return {"logits": logits, "boxes": boxes}

    def explained(self, image: Tensor, chosen: Tensor | None = None, valid: Tensor | None = None) -> dict[str, Tensor]:
        """`forward` of a network that may choose its queries by rank, to compare it with its exported graph: rounding
        gives near-equal tokens another order, and a query that stands elsewhere answers otherwise.

        Args:
            image: [B,3,H,W].
            chosen: int64 [B,N], tokens to take instead of the best ones.
            valid: as for `forward`.

        Returns:
            logits and boxes; where the network chooses, also `chosen` [B,N] and `scores` [B,S] of all tokens.
        """
        context = self.encode(image, valid)
        queries = self.own_queries(context) if chosen is None else self.queries(context, chosen)
        logits, boxes = self.decode(context, queries)[-1]
        outputs, proposals = {"logits": logits, "boxes": boxes}, queries.proposals
        if proposals is not None and proposals.chosen is not None:
            outputs.update(chosen=proposals.chosen, scores=proposals.scores)
        return outputs


def check_detector(model: nn.Layer, key: str = "model") -> None:
    """Raises UserError unless `model` offers what Methods for detectors ask for."""
    missing = [n for n in ("encode", "own_queries", "decode", "new_queries") if not promises(model).offers(n)]
    if missing:
        raise UserError(f"{key}: {type(model).__name__} is no DETR host: it has no {', '.join(missing)}")
