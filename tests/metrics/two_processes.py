"""Started by test_coco.py, alone or by the launcher: evaluates a toy detector and writes <prefix>.<rank>.json."""

from __future__ import annotations

import json
import sys

import numpy as np
import paddle

from ppvision.data import Loader
from ppvision.engine import distributed
from ppvision.engine.evaluator import Evaluator
from ppvision.metrics.coco import CocoAP
from ppvision.predict.tasks.detection import Detection
from tests.nets import Function

CLASSES = 3


class Squares:
    """Bright squares on grey: 17 images, so that two processes have unequal shares; some without object."""

    class_names = ["a", "b", "c"]
    category_ids = [1, 2, 3]
    num_classes = CLASSES

    def __len__(self) -> int:
        return 17

    def name(self, index: int) -> str:
        return f"{index}.png"

    def __getitem__(self, index: int) -> dict:
        rng = np.random.default_rng(index)
        image = np.full((64, 80, 3), 60, np.uint8)
        count = int(rng.integers(0, 3))
        corners = rng.integers(0, 40, (count, 2))
        boxes = np.concatenate([corners, corners + rng.integers(8, 24, (count, 2))], axis=1).astype(np.float32)
        classes = rng.integers(0, CLASSES, count)
        for (x1, y1, x2, y2), k in zip(boxes.astype(int), classes):
            image[y1:y2, x1:x2, k] = 255
        crowd, areas = np.zeros(count, bool), (boxes[:, 2:] - boxes[:, :2]).prod(1)
        keys = {"image_id": 100 - index, "name": self.name(index)}
        return {"image": image, "boxes": boxes, "classes": classes, "crowd": crowd, "areas": areas, **keys}


def net(image: paddle.Tensor) -> dict[str, paddle.Tensor]:
    """Three queries: the extent of what is bright in each colour, with noise that depends on the image."""
    rows = []
    for picture in image.numpy():
        for channel in picture:
            y, x = np.nonzero(channel > 2)
            noise = np.random.default_rng(len(y)).normal(0, 0.02, 4)
            box = [x.min(), y.min(), x.max() + 1, y.max() + 1] if len(y) else [0, 0, 1, 1]
            x1, y1, x2, y2 = np.array(box) / [80, 64, 80, 64] + noise
            rows.append([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1, 3.0 if len(y) else -3.0])
    rows = np.asarray(rows, np.float32).reshape(len(image), CLASSES, 5)
    logits = np.where(np.eye(CLASSES, dtype=bool)[None], rows[..., 4:], -6.0 + rows[..., :1]).astype(np.float32)
    return {"logits": paddle.to_tensor(logits), "boxes": paddle.to_tensor(np.ascontiguousarray(rows[..., :4]))}


if __name__ == "__main__":
    distributed.start()
    share = {"rank": distributed.rank(), "world_size": distributed.world_size()}
    loader = Loader(Squares(), None, batch_size=2, shuffle=False, keep_target=True, **share)
    evaluator = Evaluator(Detection(), [CocoAP(CLASSES)], loader, (60.0,) * 3, (58.0,) * 3)
    metrics = evaluator({"model": Function(net)})
    with open(f"{sys.argv[1]}.{share['rank']}.json", "w", encoding="utf-8") as file:
        json.dump(metrics, file)
