"""tools/similarity.py on a run of two updates."""

from __future__ import annotations

import gzip
import importlib.util
import struct
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

import ppvision

ROOT = Path(__file__).resolve().parents[2]


def tool():
    spec = importlib.util.spec_from_file_location("similarity_tool", ROOT / "tools/similarity.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_pictures_of_a_run(tmp_path, capsys):
    rng = np.random.default_rng(0)
    for part in ("train", "t10k"):
        for kind, array in (("images-idx3", rng.integers(0, 256, [6, 24, 24])), ("labels-idx1", np.arange(6) % 3)):
            head = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
            (tmp_path / f"{part}-{kind}-ubyte.gz").write_bytes(gzip.compress(head + array.astype("u1").tobytes()))
    method = {"type": "cae_v2", "teacher": {"type": "clip_vit_debug"}, "num_masked": 9, "min_block": 3}
    parts = {"train": {"split": "train"}, "val": {"split": "val"}}
    spec = {
        "model": {"type": "cae_v2_debug"},
        "method": {**method, "regressor_depth": 1},
        "data": {"type": "idx", "root": str(tmp_path), "workers": 0, **parts},
        "optimizer": {"type": "adamw", "lr": 1.0e-3},
        "schedule": {"type": "constant"},
        "train": {"iters": 2, "batch_size": 3},
        "eval": {"enabled": False},
    }
    path, run = tmp_path / "recipe.yml", tmp_path / "run"
    path.write_text(yaml.safe_dump(spec))
    ppvision.train(path, [f"train.save_dir={run}"])
    arguments = ["-c", str(path), "--run", str(run), "--images", "2", "--size", "48"]
    assert tool().main([*arguments, "--vdl"]) == 0
    files = sorted((run / "similarity").glob("*.png"))
    assert len(files) == 2 and list((run / "vdl").iterdir())
    assert Image.open(files[0]).size == (5 * 48 + 4 * 4, 48)
    assert tool().main([*arguments, "-o", "method.num_masked=9", "method.regressor_depth=2"]) == 2
    assert "does not fit" in capsys.readouterr().err
