"""The same graph under Paddle's old IR, `.pdmodel`, for servers of Paddle 2, written by a child process: the flag that
selects the IR is read when Paddle is imported.

The child is started with FLAGS_enable_pir_api=0 and a job as JSON on standard input. Paddle 3.1 writes nearly every
network; 3.2 and 3.3 lack many operators ("argument must be Value, but got Variable"), which ends the process with a
traceback the parent reads. Outputs keep Paddle's own names there; their order is that of deploy.yaml.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ppvision.errors import UserError
from ppvision.exporting import convert_onnx


def legacy_writer(cfg: Any, weights: Any, shapes: Mapping[str, Sequence[int]]) -> Callable[[Path, str, str], None]:
    """Writes a pdmodel in a child process: the flag that selects the old IR is read when Paddle is imported."""

    def write(stem: Path, deployable: str, output_op: str) -> None:
        # The recipe travels as data with its resolved paths; a child has the same working directory.
        job = {
            "config": cfg.to_dict(),
            "weights": os.fspath(weights),
            "deployable": deployable,
            "shapes": {name: list(shape) for name, shape in shapes.items()},
            "output_op": output_op,
            "stem": str(stem),
        }
        done = subprocess.run(
            [sys.executable, "-m", "ppvision.exporting.legacy"],
            input=json.dumps(job),
            env=convert_onnx.child_environment(FLAGS_enable_pir_api="0"),
            capture_output=True,
            text=True,
            errors="replace",
        )
        if done.returncode or not stem.with_name(stem.name + ".pdmodel").is_file():
            lines = [line.strip() for line in (done.stdout + "\n" + done.stderr).splitlines() if line.strip()]
            raise UserError(f"this Paddle cannot write it: {legacy_reason(lines)}")

    return write


def legacy_reason(lines: Sequence[str]) -> str:
    """The operator the legacy writer stumbled over, from its output; else the last error line."""
    for line in reversed(lines):
        # "matmul(): argument 'x' (position 0) must be Value, but got Variable"
        # or "TypeError: (InvalidType) matmul(): ...": the word right before a parenthesis, never one that ends in ":".
        operator = re.search(r"([A-Za-z_]\w*)\(", line)
        if "must be" in line and operator:
            return f"operator {operator[1]}"
    errors = [line for line in lines if "rror" in line] or list(lines) or ["no message"]
    return errors[-1][:160]


def main() -> None:
    """Child: build the network as the parent did and save it."""
    import paddle

    from ppvision.exporting.deployed import Deployed
    from ppvision.exporting.graph import resolved, save_static
    from ppvision.models.network import inputs_of
    from ppvision.predict.assemble import assemble
    from ppvision.predict.tasks.base import ending_of

    job = json.load(sys.stdin)
    paddle.set_device("cpu")
    with paddle.utils.unique_name.guard():  # as in the parent, so that parameters have the same names and order
        assembly = assemble(job["config"], weights=job["weights"])
    net = assembly.nets[job["deployable"]]
    _, ending = ending_of(assembly.task, job["output_op"])
    layer = Deployed(net, *assembly.statistics, ending)
    layer.eval()
    save_static(layer, Path(job["stem"]), resolved(inputs_of(net), job["shapes"]), ())


if __name__ == "__main__":
    main()
