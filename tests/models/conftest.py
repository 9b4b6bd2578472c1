"""Exported graphs, as these tests run them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def paddle_predictor() -> Callable[[str | Path, bool], Any]:
    """`paddle_predictor(stem, onednn)`: Paddle Inference on `stem`.json and `stem`.pdiparams, on the CPU."""
    from paddle import inference

    def predictor(stem: str | Path, onednn: bool) -> Any:
        config = inference.Config(f"{stem}.json", f"{stem}.pdiparams")
        config.disable_glog_info()
        if onednn:
            config.enable_mkldnn()
            config.delete_pass("onednn_placement_pass")  # the pass breaks F.interpolate on Paddle 3.3
        else:
            config.disable_mkldnn()
        return inference.create_predictor(config)

    return predictor
