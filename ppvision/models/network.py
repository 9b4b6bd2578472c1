"""What a network may promise beyond `forward`: every optional part, with its default.

Trainer, exporter, memory planner and Methods ask these names of a network; one that inherits from `Network` has them
all. Networks of other packages, named by dotted path, have the defaults: `promises(net)` gives whichever applies.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from paddle import Tensor, nn

from ppvision.models.inputs import IMAGE, VALID, Input, example_of, fixed_batch, graph_name
from ppvision.nn.promises import Promises, optional
from ppvision.nn.promises import promises as promises_of

if TYPE_CHECKING:
    from ppvision.models.queries import Context, QuerySet
    from ppvision.nn.anchors import Dense

__all__ = ["IMAGE", "VALID", "Input", "Network", "example_of", "fixed_batch", "graph_name", "inputs_of", "promises"]

Kind = TypeVar("Kind", bound=Promises)


class Network(Promises):
    """Base of all inference networks of the suite; each attribute and method below may be overridden.

    `offers("features", "decode")` says whether a network has its own. To ask for a method that it does not offer is an
    AttributeError.

    Attributes:
        num_classes: 0 where there are none.
        num_features: channels of what `tokens` gives.
        mean_std: statistics of the pictures a frozen teacher wants, per channel, 0..255; None: ImageNet's.
        weights_source: where its weights came from, for `state.json`; set by whoever loads them.
        recompute_blocks: names of sub-layers, each run again in the backward pass where `train.recompute` is on.
        training_heads: names of sub-layers whose answers only a loss reads (class heads of all decoder layers but the
            last): trained and saved with the network, no part of an exported graph.
        feature_channels: name of a map of `features` -> its channels.
        feature_strides: name of a map of `features` -> its stride.
        token_head: a layer that classifies every token, where the network votes with its tokens; None: it exists only
            while training.
        queries: of a detector with queries, what asks its own questions: `queries(context) -> QuerySet`.
        query_content: of a detector with queries: whether they carry vectors beside their references.
    """

    num_classes: int = 0
    num_features: int = 0
    mean_std: tuple[Sequence[float], Sequence[float]] | None = None
    weights_source: str = "in memory"
    recompute_blocks: Sequence[str] = ()
    training_heads: Sequence[str] = ()
    feature_channels: Mapping[str, int] = {}
    feature_strides: Mapping[str, int] = {}
    token_head: nn.Layer | None = None
    queries: nn.Layer | None = None
    query_content: bool = True

    def inputs(self) -> dict[str, Input]:
        """What `forward` takes, by name, in its order."""
        return {"image": IMAGE}

    def deployables(self) -> dict[str, nn.Layer]:
        """What is evaluated, averaged and exported, by name."""
        return {"model": self}

    def example(self, batch: int, size: tuple[int, int], rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Raw inputs but for the pictures, to compare an export at: by name, in the order of `inputs`.

        Args:
            batch: number of samples.
            size: height and width of the picture.
            rng: what is random comes from here.
        """
        return example_of(self.inputs(), batch, size, rng)

    @optional
    def features(self, image: Tensor) -> dict[str, Tensor]:
        """Maps [B,C,h,w] by level, fine to coarse: what a dense head or a Method asks for by name. An encoder of tokens
        gives "cls" and "tokens" beside them.
        """

    @optional
    def decode(self, *args: Any) -> Any:
        """A segmenter's `decode(maps, size)`: logits [B,K,*size] from the maps of `features`; `forward` is both. A
        detector's `decode(context, queries)`: logits [B,N,K] and boxes [B,N,4] (cxcywh in 0..1, relative to the picture
        without its padding) of every decoder layer; references get no gradient through the refinement.
        """

    @optional
    def explained(self, image: Tensor, chosen: Tensor | None = None, *more: Tensor | None) -> dict[str, Tensor]:
        """`forward` of a network that chooses by rank, which says by what it chose and can be told the choice, to
        compare it with its exported graph: rounding gives near-equal candidates another order.
        """

    @optional
    def embed(self, image: Tensor) -> Tensor:
        """The stem of a classifier of tokens: a map [B,H,W,C]."""

    @optional
    def tokens(self, x_BHWC: Tensor) -> Tensor:
        """Final tokens [B,L,num_features] of the map that `embed` gave."""

    @optional
    def classify(self, tokens_BLC: Tensor) -> Tensor:
        """Logits [B,K] of final tokens; `forward` is `embed`, `tokens`, `classify`."""

    @optional
    def encode(self, image: Tensor, valid: Tensor | None = None) -> Context:
        """Of a detector with queries: normalised [B,3,H,W] and `valid` bool [B,H,W] (None: no padding) -> what its
        decoder needs.
        """

    @optional
    def own_queries(self, context: Context) -> QuerySet:
        """Of a detector with queries: those of inference."""

    @optional
    def new_queries(self) -> nn.Layer:
        """Of a detector with queries: a freshly initialised layer like `queries`, for one more group while training."""

    @optional
    def anchors(self, height: int, width: int) -> Tensor:
        """Of a dense detector: the anchors [A,4] of a canvas, as `dense` gives them."""

    @optional
    def dense(self, image: Tensor) -> Dense:
        """Of a dense detector: what is predicted at every anchor, which losses and teachers look at."""


def promises(net: nn.Layer, kind: type[Kind] = Network) -> Kind:
    """The network itself where it inherits from `Network`, else a view with its own answers and the defaults.

    Args:
        net: any layer.
        kind: another class of promises: `ppvision.models.detr.Queries`.
    """
    return promises_of(net, kind)


def inputs_of(net: nn.Layer) -> dict[str, Input]:
    """The inputs of a deployable: those it declares; of a layer of another package a picture, and a padding mask where
    its `forward` has an argument `valid`."""
    if isinstance(net, Network):
        return net.inputs()
    masked = "valid" in inspect.signature(net.forward).parameters
    return {"image": IMAGE, **({"valid": VALID} if masked else {})}
