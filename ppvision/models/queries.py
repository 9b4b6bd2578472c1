"""What passes between the two halves of a detector with queries: the picture as its decoder sees it, and the questions.

Names of axes: B batch, S tokens of the memory, L levels, N queries, T queries of a group, K classes, d width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import paddle
from paddle import Tensor

__all__ = ["Context", "Proposals", "QuerySet", "fold_groups", "unfold_groups"]


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
