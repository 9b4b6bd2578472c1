"""`ppvision predict` from a clean checkout: `python tools/predict.py -c configs/x.yml --image_path x.jpg`."""

import sys
from pathlib import Path

if __name__ == "__main__":
    # instead of tools/, whose file names would shadow other modules
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from ppvision.cli import main

    sys.exit(main(["predict", *sys.argv[1:]]))
