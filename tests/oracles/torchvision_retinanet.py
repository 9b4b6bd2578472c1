"""Runs inside the oracle environment: small RetinaNets of torchvision with random weights.

    .venv-oracles/bin/python tests/oracles/torchvision_retinanet.py FOLDER

writes into FOLDER for each of `NETS` <name>.pth, the state dict, and <name>.npz: `image`, `score` (its threshold),
`logits`, `deltas`, `anchors` (xyxy in pixels), `rounded` (those of torchvision's default), and for every picture i
`objects_i` (xyxy in pixels), `classes_i`, `matched_i`, `losses_i` (class, box), `boxes_i`, `scores_i`, `labels_i`.

torchvision lies in `.venv-oracles/apart`, where only this script looks (see requirements/upstream_apart.txt).
Anchors are made with exact sides, as ours are: torchvision rounds them to whole pixels. A wheel of torchvision that is
built for CUDA has no operators beside torch for the CPU; the one that is needed is then written out here.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

sys.path.append(str(Path(sys.prefix) / "apart"))


def greedy(boxes: torch.Tensor, scores: torch.Tensor, iou_threshold: float) -> torch.Tensor:
    """Places of the boxes that stay, by falling score."""
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    kept: list[int] = []
    for i in scores.argsort(descending=True).tolist():
        sides = torch.minimum(boxes[i, 2:], boxes[kept, 2:]) - torch.maximum(boxes[i, :2], boxes[kept, :2])
        shared = sides.clamp(min=0).prod(-1)
        if not (shared / (area[i] + area[kept] - shared) > iou_threshold).any():
            kept.append(i)
    return torch.tensor(kept, dtype=torch.int64)


try:
    import torchvision
except RuntimeError as error:
    if "torchvision::nms" not in str(error):
        raise
    for name in [n for n in sys.modules if n.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "FRAGMENT")
    for op in ("nms", "qnms"):
        library.define(f"{op}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import torchvision.ops.boxes

    torchvision.ops.boxes.nms = greedy

from torchvision.models.detection.anchor_utils import AnchorGenerator  # noqa: E402
from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor  # noqa: E402
from torchvision.models.detection.image_list import ImageList  # noqa: E402
from torchvision.models.detection.retinanet import RetinaNet, _default_anchorgen  # noqa: E402
from torchvision.models.resnet import BasicBlock, ResNet  # noqa: E402
from torchvision.ops import FrozenBatchNorm2d, box_iou  # noqa: E402
from torchvision.ops.feature_pyramid_network import LastLevelP6P7  # noqa: E402

# channels of what P6 is made of, C5 or P5; score below which nothing is detected
NETS = {"map": (512, 0.8), "pyramid": (256, 0.7)}
HEIGHT, WIDTH, CLASSES, FINE = 128, 256, 5, 2.0**20


def network(channels: int, score: float) -> RetinaNet:
    body = ResNet(BasicBlock, [1, 1, 1, 1], norm_layer=FrozenBatchNorm2d)
    backbone = _resnet_fpn_extractor(body, 5, returned_layers=[2, 3, 4], extra_blocks=LastLevelP6P7(channels, 256))
    sizes = [[FINE * side * 2 ** (i / 3) for i in range(3)] for side in (32, 64, 128, 256, 512)]
    exact = AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * 5)
    exact.cell_anchors = [cell / FINE for cell in exact.cell_anchors]
    return RetinaNet(
        backbone, CLASSES, HEIGHT, WIDTH, (0.0,) * 3, (1.0,) * 3, exact, score_thresh=score, topk_candidates=9000
    )


def randomise(model: torch.nn.Module, seed: int) -> None:
    """Every weight and statistic away from its neutral value."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            noise = torch.randn(value.shape, generator=generator)
            if name.endswith("running_var"):
                value.copy_(1 + 0.3 * noise.abs())
            elif value.ndim == 4:
                value.copy_(noise * (2.0 / value[0].numel()) ** 0.5)
            elif name.endswith("bn1.weight"):
                value.copy_(1 + 0.1 * noise)
            else:
                value.copy_(0.1 * noise)
        model.head.classification_head.cls_logits.weight.mul_(3.0)
        model.head.classification_head.cls_logits.bias.sub_(4.5)


def main(folder: Path) -> None:
    rng = np.random.default_rng(3)
    for name, (channels, score) in NETS.items():
        model = network(channels, score)
        randomise(model, channels)
        model.eval()
        torch.save(model.state_dict(), folder / f"{name}.pth")
        image = torch.from_numpy(rng.standard_normal([2, 3, HEIGHT, WIDTH]).astype("float32"))
        out = {"image": image.numpy(), "score": score}
        with torch.no_grad():
            maps = list(model.backbone(image).values())
            predictions = model.head(maps)
            listed = ImageList(image, [(HEIGHT, WIDTH)] * 2)
            anchors = model.anchor_generator(listed, maps)
            out |= {
                "logits": predictions["cls_logits"],
                "deltas": predictions["bbox_regression"],
                "anchors": anchors[0],
            }
            out["rounded"] = _default_anchorgen()(listed, maps)[0]
            for i, found in enumerate(model([*image])):
                low = rng.uniform(0, [WIDTH - 60, HEIGHT - 60], (4, 2))
                boxes = torch.tensor(np.concatenate([low, low + rng.uniform(28, 60, (4, 2))], 1), dtype=torch.float32)
                target = {"boxes": boxes, "labels": torch.tensor(rng.integers(0, CLASSES, 4))}
                one = {key: value[i : i + 1] for key, value in predictions.items()}
                losses = model.compute_loss([target], one, [anchors[0]])
                out |= {
                    f"objects_{i}": boxes,
                    f"classes_{i}": target["labels"],
                    f"matched_{i}": model.proposal_matcher(box_iou(boxes, anchors[0])),
                    f"losses_{i}": torch.stack([losses["classification"], losses["bbox_regression"]]),
                    **{f"{key}_{i}": found[key] for key in ("boxes", "scores", "labels")},
                }
        np.savez(folder / f"{name}.npz", **{k: np.asarray(v) for k, v in out.items()})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
