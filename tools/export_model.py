"""`ppvision export` from a clean checkout: `python tools/export_model.py -c configs/x.yml`."""

import sys
from pathlib import Path

if __name__ == "__main__":
    # instead of tools/, whose file names would shadow other modules
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from ppvision.cli import main

    sys.exit(main(["export", *sys.argv[1:]]))
