"""Runs inside the oracle environment: matching and losses of detection as `transformers` computes them.

    .venv-oracles/bin/python tests/oracles/transformers_detection_loss.py FOLDER

writes loss.npz into FOLDER: `logits` [L,B,N,K] and `boxes` [L,B,N,4] of three layers, padded targets `target_boxes`
[B,G,4], `target_classes` [B,G] and `counts` [B] (one picture without objects), and per layer i `cost_<i>` [B,N,sum n],
`rows_<i>`, `columns_<i>` (matches, one picture after the other), `loss_<i>` (cls, l1, giou, unweighted) and `total`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from transformers.loss import loss_deformable_detr as source

LAYERS, BATCH, QUERIES, CLASSES = 3, 4, 11, 5


def main(folder: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(LAYERS, BATCH, QUERIES, CLASSES, generator=generator)
    boxes = torch.rand(LAYERS, BATCH, QUERIES, 4, generator=generator) * 0.8 + 0.1
    counts = [3, 0, 5, 1]
    targets = [
        {
            "class_labels": torch.randint(0, CLASSES, (n,), generator=generator),
            "boxes": torch.rand(n, 4, generator=generator) * 0.5 + 0.2,
        }
        for n in counts
    ]
    config = SimpleNamespace(
        class_cost=2, bbox_cost=5, giou_cost=2, num_labels=CLASSES, focal_alpha=0.25, auxiliary_loss=True,
        decoder_layers=LAYERS, bbox_loss_coefficient=5, giou_loss_coefficient=2,
    )  # fmt: skip
    seen: list[np.ndarray] = []
    solve = source.linear_sum_assignment
    matcher = source.DeformableDetrHungarianMatcher(class_cost=2, bbox_cost=5, giou_cost=2)
    out = {"logits": logits.numpy(), "boxes": boxes.numpy(), "counts": np.array(counts)}
    padded = max(counts)
    out["target_boxes"] = np.stack(
        [np.pad(t["boxes"].numpy(), ((0, padded - len(t["boxes"])), (0, 0))) for t in targets]
    )
    out["target_classes"] = np.stack(
        [np.pad(t["class_labels"].numpy(), (0, padded - len(t["boxes"]))) for t in targets]
    )
    for i in range(LAYERS):
        seen.clear()
        source.linear_sum_assignment = lambda cost: (seen.append(np.asarray(cost)), solve(cost))[1]
        pairs = matcher({"logits": logits[i], "pred_boxes": boxes[i]}, targets)
        source.linear_sum_assignment = solve
        for image, cost in enumerate(seen):
            out[f"cost_{i}_{image}"] = cost
            out[f"rows_{i}_{image}"], out[f"columns_{i}_{image}"] = (x.numpy() for x in pairs[image])
    total, terms, _ = source.DeformableDetrForObjectDetectionLoss(
        logits[-1], targets, "cpu", boxes[-1], config, outputs_class=logits, outputs_coord=boxes
    )
    for i in range(LAYERS):
        suffix = "" if i == LAYERS - 1 else f"_{i}"
        out[f"loss_{i}"] = np.array([float(terms[f"loss_{k}{suffix}"]) for k in ("ce", "bbox", "giou")])
    np.savez(folder / "loss.npz", total=float(total), **out)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
