"""What is measured does not depend on `eval.batch_size`: pictures of several sizes are padded in a batch, and a network
that looks at the whole image would see that."""

from __future__ import annotations

import json

import numpy as np
import paddle
import pytest
import yaml
from paddle import nn
from PIL import Image

import ppvision
from ppvision.engine import evaluator
from tests.exporting.samples import randomise

SIZES = ((48, 64), (40, 80), (64, 48), (37, 61))
BOXES = np.array([[0.3, 0.3, 0.4, 0.4], [0.7, 0.3, 0.4, 0.5], [0.3, 0.7, 0.5, 0.4], [0.7, 0.7, 0.4, 0.4]], np.float32)


class Moody(nn.Layer):
    """Four boxes whose scores follow the mean colour of all that is shown, padding too."""

    def __init__(self, num_classes: int = 3):
        super().__init__()
        self.num_classes = num_classes
        self.boxes = self.create_parameter(BOXES.shape, default_initializer=nn.initializer.Assign(BOXES))
        self.score = nn.Linear(3, 4 * num_classes)

    def forward(self, image, valid=None):
        logits = self.score(image.mean([2, 3])).reshape([-1, 4, self.num_classes])
        return {"logits": logits, "boxes": self.boxes.unsqueeze(0).expand([logits.shape[0], 4, 4])}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """(recipe, weights): eight pictures of four sizes, each with one object, which is one of the four boxes."""
    folder, rng = tmp_path_factory.mktemp("moody"), np.random.default_rng(5)
    (folder / "val").mkdir()
    (folder / "annotations").mkdir()
    images, rows = [], []
    for i in range(8):
        height, width = SIZES[i % 4]
        image = np.clip(rng.normal(rng.uniform(30, 220, 3), 20, (height, width, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(image).save(folder / f"val/{i}.png")
        images.append({"id": i + 1, "file_name": f"{i}.png", "height": height, "width": width})
        x, y, w, h = BOXES[rng.integers(4)] * (width, height, width, height)
        box = [float(x - w / 2), float(y - h / 2), float(w), float(h)]
        row = {"id": i + 1, "image_id": i + 1, "category_id": int(rng.integers(1, 4)), "bbox": box}
        rows.append({**row, "area": box[2] * box[3], "iscrowd": 0})
    categories = [{"id": k + 1, "name": name} for k, name in enumerate("abc")]
    content = {"images": images, "annotations": rows, "categories": categories}
    (folder / "annotations/instances_val.json").write_text(json.dumps(content))
    spec = {
        "model": {"type": "tests.engine.test_batch_size.Moody", "num_classes": 3},
        "data": {"type": "coco", "root": str(folder), "workers": 0, "val": {"split": "val"}},
        "eval": {"metrics": ["coco"], "task": "detection"},
    }
    spec["data"] |= {"mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375]}
    (folder / "r.yml").write_text(yaml.safe_dump(spec))
    net = randomise(Moody())
    net.boxes.set_value(BOXES)
    net.score.weight.set_value(net.score.weight * 20)
    paddle.save(net.state_dict(), str(folder / "w.pdparams"))
    return folder / "r.yml", folder / "w.pdparams"


def metrics(recipe, size: int) -> dict[str, float]:
    return ppvision.evaluate(recipe[0], [f"eval.batch_size={size}"], weights=recipe[1])


@pytest.mark.parametrize("size", [2, 4])
def test_mean_average_precision(recipe, size):
    alone = metrics(recipe, 1)
    assert 0.05 < alone["mAP"] < 0.95
    assert metrics(recipe, size) == alone


def test_these_pictures_can_tell(recipe, monkeypatch):
    """Judged with the padding of their neighbours, they give other figures."""
    alone = metrics(recipe, 1)
    monkeypatch.setattr(evaluator, "by_size", lambda batch: [batch])
    assert metrics(recipe, 1) == alone
    assert metrics(recipe, 2)["mAP"] != alone["mAP"] != metrics(recipe, 4)["mAP"]
