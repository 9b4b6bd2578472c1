"""Run an exported model on images: `python deploy/python/infer.py --config export/deploy.yaml --image_path images/`.

The same as `ppvision infer`; `--help` lists the flags.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from ppvision.cli.infer import main, script

if __name__ == "__main__":
    sys.exit(script(main))
