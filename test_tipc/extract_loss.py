"""Print the losses of a log on standard input, one per line; or compare those of two logs (`--compare A B`).

    python test_tipc/extract_loss.py -v '[TRAIN] epoch:' -e 'loss: {%f},' < train.log

Exit status of a comparison: 0 equal within --rtol, 1 not, or no losses there.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from harness import losses


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    found.add_argument("-v", "--valid_expr", default="*", help="text that a line must hold; * is any line")
    found.add_argument("-e", "--extract_expr", default="loss: {%f},", help="with one of {%%f}, {%%i}, {%%s}")
    found.add_argument("-r", "--reduction_expr", default="print", choices=("print", "sum", "mean"))
    found.add_argument("-n", "--discard", type=int, default=0, help="leave out so many values at both ends")
    found.add_argument("-d", "--debug", action="store_true", help="also say how many values were found")
    found.add_argument("--compare", nargs=2, metavar=("A", "B"), help="two logs")
    found.add_argument("--rtol", type=float, default=1e-4)
    return found


def main(argv: Sequence[str]) -> int:
    """Exit status of the command."""
    args = parser().parse_args(argv)

    def values(lines) -> list:
        found = losses.extract(lines, args.valid_expr, args.extract_expr)
        if args.debug:
            print(f"{len(found)} values", file=sys.stderr)
        return found[args.discard : len(found) - args.discard] if args.discard else found

    try:
        if args.compare:
            series = []
            for path in args.compare:
                with open(path, encoding="utf-8", errors="replace") as file:
                    series.append(values(file))
                out = Path(path).with_name(Path(path).name.replace("_python_train_infer", "").replace("output", "loss"))
                if out != Path(path):
                    out.write_text("".join(f"{v}\n" for v in series[-1]), encoding="utf-8")
            fault = losses.compare(*series, args.rtol)
            print(fault or f"{len(series[0])} losses agree within {args.rtol:g}")
            return 1 if fault else 0
        found = values(sys.stdin)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if args.reduction_expr == "print":
        print("".join(f"{v}\n" for v in found), end="")
    elif args.reduction_expr == "sum":
        print(sum(found))
    else:
        print(sum(found) / len(found) if found else "null")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
