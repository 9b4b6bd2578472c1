"""Write the weights a recipe's network starts from, a function of the seed: for runs that export untrained."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def main(argv: Sequence[str]) -> int:
    """Exit status of the command."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--config", required=True)
    parser.add_argument("--output", required=True, help="the .pdparams file")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)

    import paddle

    from ppvision.config import build, load
    from ppvision.models.zoo import deployables

    paddle.set_device("cpu")
    paddle.seed(args.seed)
    parts = deployables(build("model", load(args.config).model))
    state = {
        key if len(parts) == 1 else f"{name}.{key}": value
        for name, net in parts.items()
        for key, value in net.state_dict().items()
    }
    output = Path(args.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    aside = output.with_name(f".{output.name}")
    paddle.save(state, str(aside))
    os.replace(aside, output)
    print(f"{output}: {args.config}, seed {args.seed}, untrained")
    return 0


if __name__ == "__main__":
    from ppvision.cli import guarded

    sys.exit(guarded(main, sys.argv[1:]))
