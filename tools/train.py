"""`ppvision train` from a clean checkout: `python tools/train.py -c configs/x.yml`."""

import sys
from pathlib import Path

if __name__ == "__main__":
    # instead of tools/, whose file names would shadow other modules
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from ppvision.cli import main

    sys.exit(main(["train", *sys.argv[1:]]))
