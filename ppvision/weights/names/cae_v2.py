"""CAE v2's names in the authors' release (Atten4Vis/CAE, project/CAEv2): ours below `encoder.`, and what trains it.

A fine-tuned encoder of the release has our names and torch's layout. Fixed positions of another size stay ours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ppvision.weights.names.engine import Dialect, Names, State

if TYPE_CHECKING:
    from paddle import nn

# "regresser" is the release's spelling; its `regresser.norm` serves nothing there
METHOD = (
    ("encoder_to_regresser.{rest}", "projection.0.{rest}"),
    ("encoder_to_regresser_norm.{rest}", "projection.1.{rest}"),
    ("rd_pos_embed", "pos_embed"),
    ("mask_token", "mask_token"),
    ("regresser.regressor_blocks.{rest}", "regressor.{rest}"),
    ("regresser.norm.{rest}", "regressor_norm.{rest}"),
    ("decoder.norm.{rest}", "head_norm.{rest}"),
    ("decoder.head.{rest}", "head.{rest}"),
)
MATRICES = r"(.*\.)?(qkv|q|k|v|proj|fc1|fc2|head)\.weight|projection\.0\.weight"


def names(net: nn.Layer) -> Names:
    """Of the encoder, with or without a classifier."""
    of = "a CAE v2 checkpoint"
    release = Dialect(
        of=of,
        pattern=r"encoder\..+",
        rules=(("encoder.{rest}", "{rest}"),),
        training=METHOD,
        closed="CAE v2",
        torch=True,
    )
    fine_tuned = Dialect(of=of, rules=(("{rest}", "{rest}"),), torch=True)
    own = net.state_dict()
    unused = [*([] if "norm.weight" in own else [r"norm\.(weight|bias)"]), *([] if net.abs_pos else ["pos_embed"])]

    def finish(state: State) -> list[str]:
        """Positions are computed, not learned."""
        if "pos_embed" in state and state["pos_embed"].shape != tuple(own["pos_embed"].shape):
            state["pos_embed"] = own["pos_embed"].numpy()
        return []

    return Names(
        {"release": release, "fine_tuned": fine_tuned}, unused="|".join(unused), matrices=MATRICES, finish=finish
    )
