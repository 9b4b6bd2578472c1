"""`ppvision data` from a clean checkout: `python tools/data.py check -c configs/x.yml`."""

import sys
from pathlib import Path

if __name__ == "__main__":
    # instead of tools/, whose file names would shadow other modules
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from ppvision.cli import main

    sys.exit(main(["data", *sys.argv[1:]]))
