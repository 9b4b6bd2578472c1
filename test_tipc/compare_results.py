"""Compare what `deploy/python/infer.py` left with stored figures.

    python test_tipc/compare_results.py --metric_file='test_tipc/results/python_<name>_results_*.txt' \\
        --predict_dir='test_tipc/output/<name>/lite_train_lite_infer/python_infer_*_results' --config <recipe>.yml

The truth is the validation data of a recipe (`--config`, any task), or a folder of label images named as the results
are (`--gt_dir` with `--num_classes`, segmentation). Each results folder is compared with the file of its precision,
which its name tells: every figure must be within atol + rtol * |stored|. Exit status 0: all are; 1: one is not, or
there was nothing to compare; 2: wrong arguments. `--write` stores the figures instead.

A stored file has lines `name: value`; names that contain `Class` hold lists and are not compared.
"""

from __future__ import annotations

import argparse
import glob
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ppvision.cli import guarded
from ppvision.errors import RunError, UserError

PRECISIONS = ("fp32", "fp16", "int8")
TASKS = {"seg": "segmentation", "cls": "classification", "det": "detection", "feat": "features"}
BEST = 10  # detections of an image that the mean score is taken of


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    found.add_argument("--metric_file", required=True, help="stored figures, a glob")
    found.add_argument("--predict_dir", required=True, help="result folders, a glob")
    found.add_argument("--config", help="recipe whose validation data are the truth")
    found.add_argument("--gt_dir", help="or a folder of label images (segmentation)")
    found.add_argument("--num_classes", type=int, help="of the labels in --gt_dir")
    found.add_argument("--task", choices=sorted(TASKS), help="default: that of the recipe's model")
    found.add_argument("--atol", type=float, default=1e-3)
    found.add_argument("--rtol", type=float, default=1e-3)
    found.add_argument("--write", action="store_true", help="store the figures of this run")
    return found


def main(argv: Sequence[str]) -> int:
    """Exit status of the command."""
    args = parser().parse_args(argv)
    if bool(args.config) == bool(args.gt_dir):
        raise UserError("compare_results: give --config, or --gt_dir with --num_classes")
    if args.gt_dir and (args.num_classes is None or args.task not in (None, "seg")):
        raise UserError("compare_results: --gt_dir compares segmentation and needs --num_classes")
    folders = sorted(path for path in glob.glob(args.predict_dir) if Path(path).is_dir())
    if not folders:
        raise RunError(f"no folder matches {args.predict_dir}")
    score = score_labels(args.gt_dir, args.num_classes) if args.gt_dir else score_recipe(args.config, args.task)
    stored = {} if args.write else {precision_of(path): path for path in sorted(glob.glob(args.metric_file))}
    if not stored and not args.write:
        raise RunError(f"no stored figures match {args.metric_file}; look at this run's results, then --write them")
    good = True
    for folder in folders:
        name, precision = Path(folder).name, precision_of(folder)
        scores = score(Path(folder))
        if args.write:
            file = Path(args.metric_file.replace("*", precision))
            write(file, scores)
            print(f"{file}: written from {name}")
            continue
        if precision not in stored:
            raise RunError(f"no stored figures of precision {precision} for {name}")
        faults = differences(read(stored[precision]), scores, args.atol, args.rtol)
        print("\n".join(faults or [f"{key}: {value:.6f}" for key, value in scores.items()]))
        if faults:
            good = False
            pair = f"The results of {name} and the results of {stored[precision]}"
            print(f"Assert allclose failed! {pair} are inconsistent!")
        else:
            print(f"Assert allclose passed! The results of {name} and {stored[precision]} are consistent!")
    return 0 if good else 1


def precision_of(path: str) -> str:
    """The precision in a file's or folder's name.

    Raises:
        RunError: there is none.
    """
    name = Path(path).name
    for precision in PRECISIONS:
        if precision in name:
            return precision
    raise RunError(f"{name}: its name tells no precision ({', '.join(PRECISIONS)})")


def read(path: str) -> dict[str, float]:
    """Stored figures.

    Raises:
        UserError: a line is not `name: value`.
    """
    found: dict[str, float] = {}
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), 1):
        name, _, value = line.partition(":")
        if not line.strip() or "Class" in name:
            continue
        try:
            found[name.strip()] = float(value)
        except ValueError:
            raise UserError(f"{path}:{number}: expected `name: value`, got '{line}'") from None
    if not found:
        raise UserError(f"{path}: no figures")
    return found


def write(path: Path, scores: Mapping[str, float]) -> None:
    """Store figures."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{name}: {value:.6f}\n" for name, value in scores.items()), encoding="utf-8")


def differences(stored: Mapping[str, float], found: Mapping[str, float], atol: float, rtol: float) -> list[str]:
    """What of the stored figures is missing or too far away, one line each."""
    faults = []
    for name, expected in stored.items():
        if name not in found:
            faults.append(f"{name}: stored {expected:.6f}, not measured")
        elif not abs(found[name] - expected) <= atol + rtol * abs(expected):  # also when it is not a number
            faults.append(
                f"{name}: {found[name]:.6f}, stored {expected:.6f}, allowed {atol + rtol * abs(expected):.6f}"
            )
    return faults


Score = Callable[[Path], dict[str, float]]


def score_labels(gt_dir: str, num_classes: int) -> Score:
    """Figures of a folder of masks against label images of the same names; sizes are matched by nearest pixel."""
    from PIL import Image

    from ppvision.metrics import MeanIoU
    from ppvision.predict.results import Mask

    def score(folder: Path) -> dict[str, float]:
        metric = MeanIoU(num_classes)
        for path in sorted(Path(gt_dir).glob("*.png")):
            label = np.array(Image.open(path))
            mask = Image.open(folder / path.name).resize(label.shape[::-1], Image.Resampling.NEAREST)
            metric.update([Mask(path.name, np.array(mask))], [{"label": label}])
        return finite(metric.compute())

    return score


def score_recipe(config: str, task: str | None) -> Score:
    """Figures of a folder of results against the recipe's validation data, by the recipe's metrics, and what else tells
    one set of results from another (`EXTRA`)."""
    from ppvision.config import Component, build, load
    from ppvision.data import Loader, build_transforms
    from ppvision.data.base import adapted
    from ppvision.models import zoo
    from ppvision.predict.tasks.base import create_task

    cfg = load(config)
    name = TASKS[task] if task else cfg.eval.task or zoo.entry(cfg.model.type).task
    read_result = READERS.get(name)
    if read_result is None:
        foreign = create_task(name)
        read_result = lambda folder, record, classes: foreign.restore(folder, record)
    dataset = adapted(build("dataset", cfg.data.val))
    known = {key: getattr(dataset, key) for key in ("num_classes", "class_names", "ignore_index")}
    specs = [{"type": m} if isinstance(m, str) else m for m in cfg.eval.metrics]

    def score(folder: Path) -> dict[str, float]:
        metrics = [build("metric", Component(m, f"eval.metrics.{i}", cfg.where), **known) for i, m in enumerate(specs)]
        metrics = [m for m in metrics if m.reads == "results"]
        for metric in metrics:
            metric.bind(dataset)
        index = {Path(r["image"]).resolve(): r for r in json.loads((folder / "predictions.json").read_text())}
        loader = Loader(dataset, build_transforms([]), batch_size=1, shuffle=False, workers=0, keep_target=True)
        results, targets = [], []
        for batch in loader:
            image = Path(batch["name"][0]).resolve()
            if image not in index:
                raise RunError(f"{folder}: no result for {image.name}")
            results.append(read_result(folder, index[image], known["num_classes"]))
            targets.append(batch["target"][0])
        for metric in metrics:
            metric.update(results, targets)
        scores = {key: value for metric in metrics for key, value in metric.compute().items()}
        return finite(scores | (EXTRA[name](results, targets) if name in EXTRA else {}))

    return score


def _mask(folder: Path, record: Mapping[str, Any], classes: int) -> Any:
    from PIL import Image

    from ppvision.predict.results import Mask

    file = next(f for f in record["files"] if f.endswith(".png"))
    return Mask(record["image"], np.array(Image.open(folder / file)))


def _classes(folder: Path, record: Mapping[str, Any], classes: int) -> Any:
    from ppvision.predict.results import Classes

    scores = np.zeros(classes, np.float32)
    for item in record["classes"]:
        scores[item["id"]] = item["score"]
    return Classes(record["image"], scores)


def _features(folder: Path, record: Mapping[str, Any], classes: int) -> Any:
    from ppvision.predict.results import Features

    with np.load(folder / next(f for f in record["files"] if f.endswith(".npz"))) as arrays:
        return Features(record["image"], dict(arrays))


def _boxes(folder: Path, record: Mapping[str, Any], classes: int) -> Any:
    from ppvision.predict.results import Boxes

    objects = record["objects"]
    boxes = np.array([o["box"] for o in objects], np.float32).reshape(-1, 4)
    scores, ids = np.array([o["score"] for o in objects], np.float32), np.array([o["id"] for o in objects], np.int64)
    return Boxes(record["image"], boxes, scores, ids)


def _true_score(results: Sequence[Any], targets: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Few images make a coarse accuracy; the probability of the right class is fine."""
    return {"true_score": float(np.mean([r.scores[int(t["label"])] for r, t in zip(results, targets)]))}


def _shape_of_features(results: Sequence[Any], targets: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Per array its mean length, and the mean cosine of two images."""
    found = {}
    for key in results[0].arrays:
        rows = np.stack([r.arrays[key].reshape(-1) for r in results]).astype(np.float64)
        lengths = np.linalg.norm(rows, axis=1)
        unit = rows / np.maximum(lengths, 1e-12)[:, None]
        cosines = (unit @ unit.T)[np.triu_indices(len(rows), 1)]
        found |= {f"{key}_length": float(lengths.mean()), f"{key}_cosine": float(cosines.mean())}
    return found


def _best_boxes(results: Sequence[Any], targets: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Mean score and mean size (root of the area, pixels) of the best detections."""
    scores, sizes = [], []
    for result in results:
        best = np.argsort(-result.scores, kind="stable")[:BEST]
        sides = result.boxes[best, 2:] - result.boxes[best, :2]
        scores.append(float(result.scores[best].mean()))
        sizes.append(float(np.sqrt(sides.prod(1)).mean()))
    return {"best_score": float(np.mean(scores)), "best_size": float(np.mean(sizes))}


READERS = {"segmentation": _mask, "classification": _classes, "features": _features, "detection": _boxes}
EXTRA: dict[str, Callable[..., dict[str, float]]] = {
    "segmentation": lambda results, targets: {},
    "classification": _true_score,
    "features": _shape_of_features,
    "detection": _best_boxes,
}


def finite(scores: Mapping[str, float]) -> dict[str, float]:
    """The figures that are numbers: average precision of a size that does not occur is none."""
    return {key: float(value) for key, value in scores.items() if math.isfinite(value)}


if __name__ == "__main__":
    sys.exit(guarded(main, sys.argv[1:]))
