"""paddle2onnx in a process of its own: on some graphs the converter aborts instead of raising.

`optimize_tool="None"`: the default installs packages from a foreign index at run time. The exit status proves nothing
about the numbers; `parity` does.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from ppvision.errors import UserError

OPSET = 17
TIMEOUT = 900


def child_environment(**extra: str) -> dict[str, str]:
    """The environment of a helper process that must find this very ppvision."""
    root = str(Path(__file__).resolve().parents[2])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **extra}


def convert(pairs: Sequence[tuple[Path, Path, Path]]) -> None:
    """Convert (model.json, model.pdiparams, model.onnx) triples.

    Raises:
        UserError: paddle2onnx is missing, failed, aborted, hung or left no file.
    """
    if importlib.util.find_spec("paddle2onnx") is None:
        raise UserError("paddle2onnx is not installed; pip install 'ppvision[onnx]'")
    command = [sys.executable, "-m", "ppvision.exporting.convert_onnx", *(str(p) for triple in pairs for p in triple)]
    try:
        done = subprocess.run(
            command,
            env=child_environment(POLYGRAPHY_AUTOINSTALL_DEPS="0"),
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT,
        )
    except subprocess.TimeoutExpired:
        raise UserError(f"paddle2onnx did not finish in {TIMEOUT} s") from None
    if done.returncode or not all(onnx.is_file() and onnx.stat().st_size for _, _, onnx in pairs):
        lines = [line for line in (done.stdout + "\n" + done.stderr).splitlines() if line.strip()]
        errors = [line for line in lines if "rror" in line] or lines or ["no message"]
        raise UserError(f"paddle2onnx ended with status {done.returncode}: {errors[-1].strip()[:200]}")


def main(argv: Sequence[str]) -> None:
    """Child: convert the files named by the arguments."""
    os.environ["POLYGRAPHY_AUTOINSTALL_DEPS"] = "0"
    import paddle2onnx

    for i in range(0, len(argv), 3):
        model, params, onnx = argv[i : i + 3]
        paddle2onnx.export(model, params, onnx, opset_version=OPSET, optimize_tool="None", verbose=False)


if __name__ == "__main__":
    main(sys.argv[1:])
