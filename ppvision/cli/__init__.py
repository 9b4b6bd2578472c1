"""The command line: `ppvision <verb>`, `python -m ppvision <verb>` and `tools/<verb>.py` are the same.

`main` picks the verb and turns errors into exit statuses: 0 done, 2 a mistake of the user, 1 a run that failed (one
line on stderr each), 130 interrupted. Any other exception is a bug of ours and keeps its traceback.
"""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from collections.abc import Callable, Sequence

from ppvision.errors import UserError, did_you_mean

# What Paddle says on every import, in every training run and at every export, and nobody could act on.
warnings.filterwarnings("ignore", message="No ccache found", category=UserWarning)
warnings.filterwarnings("ignore", message="When training, we now always track global mean", category=UserWarning)
os.environ.setdefault("GLOG_minloglevel", "2")  # C++ errors stay, C++ warnings go

VERBS = {
    "train": ("ppvision.cli.train", "train a recipe, or continue a run"),
    "eval": ("ppvision.cli.evaluate", "figures of trained weights on the recipe's validation data"),
    "predict": ("ppvision.cli.predict", "results and pictures for images, from a recipe and its weights"),
    "export": ("ppvision.cli.export", "static graph, ONNX and deploy.yaml, with a parity table"),
    "infer": ("ppvision.cli.infer", "run an exported model, as deploy/python/infer.py"),
    "benchmark": ("ppvision.cli.benchmark", "time forward, training step and inference of a recipe"),
    "config": ("ppvision.cli.config", "show, compare and validate recipes"),
    "data": ("ppvision.cli.data", "fetch a data set, or check one for faults"),
    "models": ("ppvision.cli.models", "list the models"),
}
ALIASES = {"evaluate": "eval", "val": "eval", "export_model": "export"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: verb and its flags; default: the process's.
    Returns:
        Exit status.
    """
    return guarded(_dispatch, list(sys.argv[1:] if argv is None else argv))


def guarded(entry: Callable[[Sequence[str]], int | None], argv: Sequence[str]) -> int:
    """Exit status of `entry(argv)`; what a person should read becomes one line on stderr (see the module)."""
    try:
        return entry(argv) or 0
    except UserError as e:
        print(f"error: {e}", file=sys.stderr)
        return e.status
    except ModuleNotFoundError as e:
        if e.name != "paddle":
            raise
        print(
            "error: PaddlePaddle is not installed: pip install 'ppvision[cpu]', or paddlepaddle-gpu (docs/install.md)",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `ppvision models | head`: nobody reads any more, which is no fault
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _dispatch(argv: Sequence[str]) -> int | None:
    verb = ALIASES.get(argv[0], argv[0]) if argv else "--help"
    if verb in ("-h", "--help", "help"):
        print(overview())
        return 0
    if verb in ("-V", "--version"):
        import ppvision

        print(ppvision.__version__)
        return 0
    if verb not in VERBS:
        raise UserError(f"unknown command '{verb}'{did_you_mean(verb, VERBS)} (commands: {', '.join(VERBS)})")
    return importlib.import_module(VERBS[verb][0]).main(argv[1:])


def overview() -> str:
    """Text of `ppvision --help`."""
    lines = [
        "usage: ppvision <command> [flags]       (the same: python -m ppvision, tools/<command>.py)",
        "",
        "commands:",
    ]
    lines += [f"  {verb.ljust(12)}{about}" for verb, (_, about) in VERBS.items()]
    return "\n".join(
        [*lines, "", "ppvision <command> --help lists its flags; -o key=value changes any value of a recipe."]
    )
