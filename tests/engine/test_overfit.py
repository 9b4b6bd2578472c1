"""Learning by heart: if the whole suite cannot fit four pictures, nothing it reports later means anything."""

from pathlib import Path

import pytest

from ppvision.data.samples.fetch import fetch
from ppvision.engine import checkpoint, train

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_rtformer_debug_learns_four_streets(tmp_path):
    """mIoU above 0.95 on four synthetic scenes whose thinnest object is 16 px, within 300 updates."""
    data = fetch("street_mini", root=tmp_path / "street_mini")
    metrics = train(
        ROOT / "configs/rtformer/rtformer_street_mini.yml",
        [f"data.root={data}", f"train.save_dir={tmp_path / 'run'}", "data.workers=0"],
    )
    assert metrics["mIoU"] > 0.95
    assert checkpoint.newest(tmp_path / "run").state["step"] <= 300
