"""Copy a log without the first lines of each epoch, in which a benchmark is not yet at speed."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence

from harness import losses


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    found.add_argument("--in_log_path", required=True)
    found.add_argument("--out_log_path", required=True)
    found.add_argument("--skip_iters", type=int, default=0, help="matching lines to leave out of each epoch")
    found.add_argument("--pattern", default=r"epoch: (\d+)", help="what a line must match; its one group is the epoch")
    return found


def main(argv: Sequence[str]) -> int:
    """Exit status of the command."""
    args = parser().parse_args(argv)
    try:
        with open(args.in_log_path, encoding="utf-8", errors="replace") as file:
            kept = list(losses.drop_first(file, args.skip_iters, args.pattern))
        with open(args.out_log_path, "w", encoding="utf-8") as file:
            file.writelines(kept)
    except (ValueError, OSError, re.error) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
