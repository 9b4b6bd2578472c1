"""The layer that is exported: normalisation, network, ending in one graph, so that mean and std cannot drift from the
weights."""

from __future__ import annotations

from collections.abc import Sequence

from paddle import Tensor, nn

from ppvision.models.network import graph_name, inputs_of
from ppvision.nn.normalise import Normalise
from ppvision.predict.nets import call, normalised
from ppvision.predict.tasks.base import Ending, named


class Deployed(nn.Layer):
    """Raw inputs by the names of the graph -> its outputs, in order.

    Args:
        net: the deployable, in evaluation mode.
        mean: per channel, on the 0..255 scale, RGB.
        std: likewise.
        ending: what the graph ends with; the plain `Ending` leaves the network's outputs.
        explain: of a network that chooses queries by rank, or drops duplicates, also what it chose and kept
            (`Network.explained`); with the plain ending only.
    """

    def __init__(
        self,
        net: nn.Layer,
        mean: Sequence[float],
        std: Sequence[float],
        ending: Ending | None = None,
        explain: bool = False,
    ):
        super().__init__()
        self.net, self.normalise = net, Normalise(mean, std)
        self.inputs = inputs_of(net)
        self.ending, self.explain = ending or Ending(), explain

    def outputs(
        self, inputs: dict[str, Tensor], chosen: Tensor | None = None, kept: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Outputs by name.

        Args:
            inputs: by the names of the graph.
            chosen: with `explain`, what to choose instead of the best.
            kept: likewise, what to keep of it.
        """
        given = {name: inputs[graph_name(name)] for name in self.inputs if graph_name(name) in inputs}
        prepared = normalised(self.inputs, given, self.normalise)
        if not self.explain:
            return self.ending(call(self.net, prepared))
        fixed = {} if kept is None else {"kept": kept}
        return named(self.net.explained(**prepared, chosen=chosen, **fixed))

    def forward(
        self, inputs: dict[str, Tensor], chosen: Tensor | None = None, kept: Tensor | None = None
    ) -> list[Tensor]:
        """`outputs` without names, as a graph gives them."""
        return list(self.outputs(inputs, chosen, kept).values())
