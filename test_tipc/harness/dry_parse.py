"""Child of `tipc.py check`: reads commands as JSON, lets each one's own parser read its arguments, answers with faults.

Imports ppvision, whose parsers and recipes import no Paddle.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path.cwd()
sys.path.insert(0, str(ROOT))


def fault(argv: Sequence[str]) -> str | None:
    """What is wrong with a command, or None."""
    from ppvision.cli import ALIASES, infer, recipe
    from ppvision.cli import VERBS as ALL_VERBS
    from ppvision.cli.data import TABLE as DATA
    from ppvision.cli.parser import parse_args
    from ppvision.cli.tables import VERBS
    from ppvision.errors import UserError

    words = list(argv[1:])
    while words and words[0] in ("-m", "paddle.distributed.launch"):
        words.pop(0)
    while words and words[0].startswith("--"):  # the launcher's own
        flag = words.pop(0)
        if "=" not in flag:
            words.pop(0)
    script = words.pop(0)
    if not Path(script).is_file():
        return f"{script}: no such script"
    stem = Path(script).stem
    verb = ALIASES.get(stem, stem)
    try:
        if script.startswith("deploy/python/"):
            parse_args(stem, infer.INFER_ONNX if stem == "infer_onnx" else infer.INFER, words)
        elif script.startswith("tools/") and verb in VERBS:
            recipe.resolved(parse_args(verb, VERBS[verb], words))
        elif script == "tools/data.py":
            parse_args("data", DATA, words)
        elif script.startswith("tools/") and verb in ALL_VERBS:
            pass
        elif stem in ("compare_results", "extract_loss", "filter_log"):
            return _argparse(script, words)
    except UserError as error:
        return f"{script}: {error}"
    return None


def _argparse(script: str, words: Sequence[str]) -> str | None:
    """The helpers of this folder have a function `parser()`."""
    import contextlib
    import importlib.util
    import io

    spec = importlib.util.spec_from_file_location(Path(script).stem, script)
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, os.path.dirname(script))
    spec.loader.exec_module(module)
    messages = io.StringIO()
    try:
        with contextlib.redirect_stderr(messages):
            module.parser().parse_args(words)
    except SystemExit:
        return f"{script}: {messages.getvalue().strip().splitlines()[-1]}"
    return None


def main() -> None:
    """Faults as [[index, text], ...] on standard output."""
    faults = [(i, fault(command)) for i, command in enumerate(json.load(sys.stdin))]
    json.dump([[i, text] for i, text in faults if text], sys.stdout)


if __name__ == "__main__":
    main()
