"""The package can be called, imported without Paddle, and brings nothing of the training."""

import subprocess
import sys
from pathlib import Path

import ppvision
import ppvision.exporting

ROOT = Path(__file__).resolve().parents[2]


def test_the_package_is_callable():
    assert callable(ppvision.export) and ppvision.export is sys.modules["ppvision.exporting"]
    assert ppvision.export.Deployed.__name__ == "Deployed"


def test_import_alone_brings_neither_paddle_nor_training():
    code = (
        "import sys, ppvision.export; assert 'paddle' not in sys.modules;"
        "import ppvision.exporting.exporter, ppvision.predict.predictor;"
        "bad = [m for m in sys.modules if m.startswith(('ppvision.methods', 'ppvision.losses', 'ppvision.engine'))];"
        "assert not bad, bad"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-800:]
