"""Child process of the export: the same graph under Paddle's old IR, `.pdmodel`, for servers of Paddle 2.

Started with FLAGS_enable_pir_api=0 and a job as JSON on standard input. Paddle 3.1 writes nearly every network; 3.2 and
3.3 lack many operators ("argument must be Value, but got Variable"), which ends this process with a traceback the
parent reads.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def main() -> None:
    """Build the network as the parent did and save it."""
    import paddle

    from ppvision.config import load
    from ppvision.export.deployed import Deployed
    from ppvision.export.exporter import save_static
    from ppvision.models.zoo import deployables
    from ppvision.predict.predictor import build_network, statistics_of

    job = json.load(sys.stdin)
    paddle.set_device("cpu")
    cfg = load(job["config"])
    with paddle.utils.unique_name.guard():  # as in the parent, so that parameters have the same names and order
        net = build_network(cfg, job["weights"])
    layer = Deployed(deployables(net)[job["deployable"]], *statistics_of(cfg), job["output_op"])
    layer.eval()
    save_static(layer, Path(job["stem"]), job["input_shape"])


if __name__ == "__main__":
    main()
