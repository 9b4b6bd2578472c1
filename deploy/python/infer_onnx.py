"""Run the model.onnx of an export: `python deploy/python/infer_onnx.py --onnx_file export/model.onnx --img_path
images/`.

The transforms and labels come from the deploy.yaml beside the file.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from ppvision.cli.infer import main_onnx, script

if __name__ == "__main__":
    sys.exit(script(main_onnx))
