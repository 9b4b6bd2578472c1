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

from paddle import Tensor, nn

from ppvision.errors import UserError
from ppvision.models.network import IMAGE, VALID, Input, Network, promises
from ppvision.models.queries import Context, QuerySet
from ppvision.nn.promises import Promises

__all__ = ["Detr", "Queries", "check_detector"]


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
