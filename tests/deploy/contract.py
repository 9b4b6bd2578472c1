"""An export run from its deploy.yaml with ONNX Runtime, OpenCV, numpy and PyYAML, as another program would do it.

    python contract.py <export folder> <answers.json> <picture> ...

Nothing here comes from ppvision: every name, size and rule is read from deploy.yaml, and a key that is missing there
ends the program. tests/deploy/test_contract.py compares the answers with the Predictor's.
"""

import json
import math
import sys
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
import yaml

INTERPOLATIONS = {
    "linear": cv2.INTER_LINEAR,
    "area": cv2.INTER_AREA,
    "cubic": cv2.INTER_CUBIC,
    "nearest": cv2.INTER_NEAREST_EXACT,
}


def pair(size):
    return [size, size] if isinstance(size, int) else size


def resized(image, rule):
    """The rule `Resize` of PPVision.rules."""
    height, width = image.shape[:2]
    if rule["size"] is not None and not rule["keep_ratio"]:
        target = pair(rule["size"])
    else:
        if rule["size"] is not None:
            scale = min(pair(rule["size"])[0] / height, pair(rule["size"])[1] / width)
        elif rule["long"] is not None:
            scale = rule["long"] / max(height, width)
        else:
            scale = rule["short"] / min(height, width)
            if rule["max"] is not None:
                scale = min(scale, rule["max"] / max(height, width))
        target = [max(1, math.floor(side * scale + 0.5)) for side in (height, width)]
    target = [math.ceil(side / rule["multiple_of"]) * rule["multiple_of"] for side in target]
    return cv2.resize(image, target[::-1], interpolation=INTERPOLATIONS[rule["interpolation"]])


def padded_size(image, rule):
    """The rule `PadTo`."""
    least = pair(rule["size"]) if rule["size"] is not None else (1, 1)
    sides = [max(side, own) for side, own in zip(image.shape[:2], least)]
    return [math.ceil(side / rule["multiple"]) * rule["multiple"] for side in sides]


def prepared(image, contract):
    """(picture [1,3,H,W] float32, mask [1,H,W], size without padding)."""
    canvas = None
    for rule in contract["transforms"]:
        if rule["type"] == "Resize":
            image = resized(image, rule)
        elif rule["type"] == "PadTo":
            canvas = padded_size(image, rule)
        elif rule["type"] == "CenterCrop":
            (height, width), size = image.shape[:2], pair(rule["size"])
            h, w = min(height, size[0]), min(width, size[1])
            top, left = (height - h) // 2, (width - w) // 2
            image = image[top : top + h, left : left + w]
        else:
            sys.exit(f"no rule for {rule['type']}")
    height, width = image.shape[:2]
    canvas = canvas or [height, width]
    x = np.empty((1, 3, *canvas), np.float32)
    x[:] = np.asarray(contract["normalisation"]["mean"], np.float32).reshape(1, 3, 1, 1)  # the fill
    x[0, :, :height, :width] = image.transpose(2, 0, 1)
    mask = np.zeros((1, *canvas), bool)
    mask[:, :height, :width] = True
    return x, mask, (height, width)


def labels_of(outputs, kinds, inner, size):
    """Class ids of the original picture."""
    labels = outputs[kinds["labels"]][0, : inner[0], : inner[1]]
    rows, columns = (np.floor((np.arange(n) + 0.5) * side / n).astype(int) for n, side in zip(size, labels.shape))
    return labels[rows][:, columns]


def main(folder, answers, pictures):
    folder = Path(folder)
    content = yaml.safe_load((folder / "deploy.yaml").read_text())
    contract = content["PPVision"]
    graph = next(name for name in contract["sha256"] if name.endswith(".onnx"))
    session = onnxruntime.InferenceSession(str(folder / graph), providers=["CPUExecutionProvider"])
    assert {node.name for node in session.get_inputs()} == {row["name"] for row in contract["inputs"]}
    assert [node.name for node in session.get_outputs()] == [row["name"] for row in contract["outputs"]]
    kinds = {row["kind"]: row["name"] for row in contract["outputs"]}
    found = []
    for picture in pictures:
        image = cv2.cvtColor(cv2.imread(picture), cv2.COLOR_BGR2RGB)
        x, mask, inner = prepared(image, contract)
        arrays = {}
        for row in contract["inputs"]:
            arrays[row["name"]] = {"image": x, "mask": mask}[row["kind"]].astype(row["dtype"])
        outputs = dict(zip([node.name for node in session.get_outputs()], session.run(None, arrays)))
        size, options, names = image.shape[:2], contract["postprocess"], contract["labels"]
        if "boxes" in kinds:
            boxes, scores, classes = (outputs[kinds[kind]][0] for kind in ("boxes", "scores", "labels"))
            keep = scores >= options["threshold"]
            boxes = np.clip(boxes[keep], 0, 1) * np.tile(size[::-1], 2)
            named = [names[k] for k in classes[keep]]
            found.append({"boxes": boxes.tolist(), "scores": scores[keep].tolist(), "names": named})
        elif "labels" in kinds:
            labels = labels_of(outputs, kinds, inner, size)
            found.append({"labels": labels.tolist(), "names": [names[k] for k in np.unique(labels)]})
        else:
            probabilities = outputs[kinds["probabilities"]][0]
            found.append({"scores": probabilities.tolist(), "names": [names[probabilities.argmax()]]})
    Path(answers).write_text(json.dumps({"answers": found, "modules": sorted(sys.modules)}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
