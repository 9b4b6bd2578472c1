"""The package can be called, imported without Paddle, and brings nothing of the training."""

import subprocess
import sys
import types
from pathlib import Path

import ppvision
import ppvision.exporting

ROOT = Path(__file__).resolve().parents[2]


def test_export_is_a_plain_function_and_its_package_a_plain_module():
    assert type(ppvision.export) is types.FunctionType and ppvision.export is ppvision.exporting.export
    assert type(sys.modules["ppvision.exporting"]) is types.ModuleType
    assert ppvision.exporting.Deployed.__name__ == "Deployed"


def test_import_alone_brings_neither_paddle_nor_training():
    code = (
        "import sys, ppvision.exporting; assert 'paddle' not in sys.modules;"
        "import ppvision.exporting.exporter, ppvision.predict.predictor;"
        "bad = [m for m in sys.modules if m.startswith(('ppvision.methods', 'ppvision.losses', 'ppvision.engine'))];"
        "assert not bad, bad"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-800:]
