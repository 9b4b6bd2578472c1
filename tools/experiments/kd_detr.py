"""KD-DETR in miniature: does a small detector learn more from a teacher if both answer the same questions?

`points` is the claim (no distillation, index-wise distillation, KD-DETR), `ablation` takes the method apart, `controls`
gives the student without a teacher what distillation costs, `heterogeneous` has a convolutional student. Host: DINO,
debug size. Data: synthetic shapes of 64x64.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from ppvision.errors import RunError
from tools.experiments import FAIL, PASS, UNRESOLVED, Experiment, Outcome, Settings, difference, exceeds, summary, worst
from tools.experiments.group_detr import BATCH, LR, STATISTICS, run_of

ROOT = Path(__file__).resolve().parents[2]
SCENES, HELD_OUT = 2000, 500
UPDATES, TEACHER_UPDATES, POINTS = 600, 1000, 2
TEACHER_SEED = 1000
HOST = "dino_debug"
STUDENT = dict(stem=(12, 24, 32, 32), num_queries=20)
TEACHER = dict(stem=(24, 48, 96, 96), num_queries=20, dim=96, heads=4, ffn=192, encoder_layers=2, decoder_layers=3)
# of class divergence, L1 and GIoU: those of a public implementation for DINO
WEIGHTS = dict(general_weights=(4.0, 5.0, 2.0), specific_weights=(4.0, 20.0, 8.0))
ARMS: dict[str, dict[str, Any]] = {  # arm -> arguments of the method, of the network, and how many times the updates
    "B0": {"title": "no distillation", "method": {"pairing": "none"}},
    "B1": {"title": "query i of one with query i of the other", "method": {"pairing": "index"}},
    "B2": {"title": "predictions of the same object", "method": {"pairing": "matched"}},
    "B4": {"title": "general points", "method": {"specific": False}},
    "B4 unweighted": {"title": "general points, all alike", "method": {"specific": False, "foreground_weight": False}},
    "B5": {"title": "specific points", "method": {"general": 0}},
    "B5 unweighted": {"title": "specific points, all alike", "method": {"general": 0, "foreground_weight": False}},
    "B6": {"title": "KD-DETR", "method": {}},
    "E": {"title": "60 queries, no distillation", "method": {"pairing": "none"}, "model": {"num_queries": 60}},
    "F": {"title": "no distillation, twice the updates", "method": {"pairing": "none"}, "times": 2},
    "R0": {"title": "RetinaNet, no distillation", "dense": None},
    "R1": {"title": "RetinaNet, distillation at anchors", "dense": {"points": 40}},
    "R2": {"title": "the same with a tenth of the weights", "dense": {"points": 40, "weights": (0.1, 0.5, 0.2)}},
}
DENSE_HOST, DENSE, DENSE_LR = "retinanet_debug", dict(stem=(12, 24, 32, 32), width=32), 3e-3
HEADROOM = 5.0


def student(arm: str) -> Any:
    """The deployable of an arm."""
    from ppvision.models import zoo

    if "dense" in ARMS[arm]:
        return zoo.create_model(DENSE_HOST, num_classes=4, **DENSE)
    return zoo.create_model(HOST, num_classes=4, **{**STUDENT, **ARMS[arm].get("model", {})})


def teacher() -> Any:
    """The teacher, untrained."""
    from ppvision.models import zoo

    return zoo.create_model(HOST, num_classes=4, **TEACHER)


def fit(arm: str, seed: int, updates: int, points: int, data: Path, weights: Path) -> dict[str, list[float]]:
    """Train the teacher (arm "teacher", which leaves its weights) or a student; see `run_of`."""
    import paddle

    from ppvision.methods.group_detr import GroupDetr
    from ppvision.weights import load_weights

    paddle.seed(seed)
    if arm == "teacher":
        net = teacher()
        out = run_of(GroupDetr(net, groups=4), seed, data, updates, points)
        paddle.save(net.state_dict(), str(weights))
        return out
    taught = teacher()
    load_weights(taught, str(weights))
    method = method_of(arm, taught)
    lr = DENSE_LR if "dense" in ARMS[arm] else LR
    out = run_of(method, seed, data, updates * ARMS[arm].get("times", 1), points, lr)
    return out | {name: [value] for name, value in consistency(method, taught, data).items()}


def method_of(arm: str, taught: Any) -> Any:
    """The method of an arm with a new student."""
    from ppvision.methods.dense_detection import DenseDetection
    from ppvision.methods.kd_dense import KdDense
    from ppvision.methods.kd_detr import KdDetr

    net = student(arm)
    if "dense" not in ARMS[arm]:
        return KdDetr(net, taught, **{"general": 20, **WEIGHTS, **ARMS[arm]["method"]})
    given = ARMS[arm]["dense"]
    return DenseDetection(net) if given is None else KdDense(net, taught, **given)


def consistency(method: Any, taught: Any, data: Path) -> dict[str, float]:
    """Mean IoU of the boxes that teacher and student answer on pictures not trained on. `own`: query i of one and query
    i of the other. `shared`: both to the same question, which are the teacher's queries, if the student learnt to read
    them, or 100 random anchors of a convolutional student.
    """
    import paddle

    from ppvision.data.batch import to_device
    from ppvision.data.formats.coco import Coco
    from ppvision.data.loader import Loader
    from ppvision.data.transforms.image import Compose
    from ppvision.methods.base import normalise
    from ppvision.methods.kd_dense import KdDense, picked, rows_of
    from ppvision.nn.anchors import decode_boxes
    from ppvision.nn.boxes import area, cxcywh_to_xyxy, inverse_sigmoid

    def overlap(a: paddle.Tensor, b: paddle.Tensor) -> float:
        a, b = cxcywh_to_xyxy(a), cxcywh_to_xyxy(b)
        corners = [paddle.maximum(a[..., :2], b[..., :2]), paddle.minimum(a[..., 2:], b[..., 2:])]
        both = area(paddle.concat(corners, axis=-1))
        return float((both / (area(a) + area(b) - both).clip(min=1e-9)).mean())

    net, out = method.model, {}
    method.eval()
    taught.eval()
    batch = next(iter(Loader(Coco(str(data), "val"), Compose([]), batch_size=50, shuffle=False)))
    image = normalise(to_device(batch), *STATISTICS)["image"]
    with paddle.no_grad():
        context = taught.encode(image)
        if net.offers("dense"):
            asking = KdDense(net, taught, points=100, random=1.0)
            asking.begin(0, 0, 0)
            predictions = net.dense(image)
            index = asking.chosen(predictions)
            anchors = rows_of(predictions.anchors, index)
            teacher_boxes = taught.decode(context, asking.asked(inverse_sigmoid(anchors)))[-1][1]
            return {"shared": overlap(decode_boxes(picked(predictions.deltas, index), anchors), teacher_boxes)}
        asked, seen = taught.own_queries(context), net.encode(image)
        teacher_boxes = taught.decode(context, asked)[-1][1]
        out["own"] = overlap(net.decode(seen, net.own_queries(seen))[-1][1][:, : teacher_boxes.shape[1]], teacher_boxes)
        if method.pairing == "points":
            out["shared"] = overlap(net.decode(seen, method.for_student(asked))[-1][1], teacher_boxes)
    return out


_DONE: dict[tuple, dict[str, list[float]]] = {}


def kept_teacher(folder: Path, updates: int, counts: Sequence[int]) -> tuple[Path, Path]:
    """Weights and figures of the teacher that these settings give: one experiment leaves them for the next."""
    settings = json.dumps([HOST, TEACHER, TEACHER_SEED, updates, list(counts), BATCH, LR])
    stem = folder / "kd_teacher" / hashlib.sha256(settings.encode()).hexdigest()[:12]
    return stem.with_suffix(".pdparams"), stem.with_suffix(".json")


def trained(arms: Sequence[str], settings: Settings) -> dict[str, Any]:
    """Arm -> what `fit` gave for every seed, and "teacher" -> its one run. Two runs at a time, one thread each."""
    from ppvision.data.samples.synthetic.coco import write_shapes

    updates, longer, counts = (2, 2, (32, 8)) if settings.quick else (UPDATES, TEACHER_UPDATES, (SCENES, HELD_OUT))
    points = 1 if settings.quick else POINTS
    with tempfile.TemporaryDirectory() as folder:
        data = write_shapes(Path(folder) / "shapes", *counts, seed=0)
        weights, record = kept_teacher(settings.data, longer, counts)

        def run(arm: str, seed: int, steps: int) -> dict[str, list[float]]:
            key = (arm, seed, steps)
            if key not in _DONE:
                _DONE[key] = _process([arm, seed, steps, points, data, weights.resolve()])
                ap = " ".join(f"{v:.3f}" for v in _DONE[key]["AP"])
                print(f"  {arm}, seed {seed}: AP {ap}, {_DONE[key]['seconds'][-1]:.0f} s", flush=True)
            return _DONE[key]

        if not (weights.is_file() and record.is_file()):
            weights.parent.mkdir(parents=True, exist_ok=True)
            record.write_text(json.dumps(run("teacher", TEACHER_SEED, longer)))
        out: dict[str, Any] = {"teacher": json.loads(record.read_text())}
        jobs = [(arm, seed) for seed in settings.seeds for arm in arms]
        with ThreadPoolExecutor(2) as pool:
            runs = list(pool.map(lambda job: run(*job, updates), jobs))
    for arm in arms:
        out[arm] = [value for (name, _), value in zip(jobs, runs, strict=True) if name == arm]
    return out


def _process(job: Sequence[Any]) -> dict[str, list[float]]:
    command = [sys.executable, "-m", "tools.experiments.kd_detr", *map(str, job)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RunError(f"arm {job[0]}, seed {job[1]}: status {done.returncode}:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def ap(runs: list[dict[str, list[float]]], point: int = -1) -> list[float]:
    """AP of every seed, in percent."""
    return [100 * run["AP"][point] for run in runs]


def metrics_of(runs: dict[str, Any]) -> dict[str, Any]:
    """AP in percent half-way and at the end, seconds, and how alike teacher and student answer, by arm."""
    out: dict[str, Any] = {
        "teacher": {"AP": 100 * runs["teacher"]["AP"][-1], "seconds": runs["teacher"]["seconds"][-1]}
    }
    for arm, values in runs.items():
        if arm != "teacher":
            out[arm] = {
                "title": ARMS[arm]["title"],
                "AP half-way": summary(ap(values, 0)),
                "AP": summary(ap(values)),
                "seconds": summary([v["seconds"][-1] for v in values]),
                **{
                    f"IoU with the teacher, {name} queries": summary([v[name][0] for v in values])
                    for name in ("own", "shared")
                    if name in values[0]
                },
            }
    return out


def headroom(runs: dict[str, Any], settings: Settings, alone: str = "B0") -> tuple[float, Outcome | None]:
    """K0: how far the teacher is ahead of the arm without it, and the outcome if that is not far enough."""
    gap = 100 * runs["teacher"]["AP"][-1] - float(np.mean(ap(runs[alone])))
    if gap >= HEADROOM or settings.quick:
        return gap, None
    reason = f"inconclusive: the teacher is only {gap:.1f} AP ahead of the student alone (needed {HEADROOM})"
    return gap, Outcome(UNRESOLVED, reason, metrics_of(runs))


def step_time(settings: Settings, arms: tuple[str, str] = ("B0", "B6")) -> dict[str, float]:
    """Seconds of an update with distillation (the second arm) over an update without, taken in turns in this
    process.
    """
    import paddle

    from ppvision.device import use_device
    from ppvision.engine.optimizer import AdamW
    from ppvision.engine.schedule import Constant
    from ppvision.engine.trainer import Trainer

    use_device(paddle.get_device())
    rng = np.random.default_rng(0)
    batch = {
        "image": paddle.to_tensor(rng.integers(0, 256, (16, 64, 64, 3)).astype("uint8")),
        "valid": paddle.ones([16, 64, 64], "bool"),
        "inner": paddle.full([16, 2], 64, "int32"),
        "boxes": paddle.to_tensor(np.tile(np.array([[8, 8, 30, 40], [20, 20, 50, 45]], "float32"), (16, 1))),
        "classes": paddle.to_tensor(np.tile([0, 1], 16)),
        "crowd": paddle.zeros([32], "bool"),
        "boxes_offsets": paddle.arange(0, 33, 2, dtype="int64"),
        "name": [str(i) for i in range(16)],
    }

    def group(name: str, parameters: dict) -> tuple:
        return AdamW(parameters, lr=1e-4), Constant(1e-4, 1000)

    trainers, times = {}, {}
    for arm in arms:
        trainers[arm], times[arm] = Trainer(method_of(arm, teacher()), group), []
    for _ in range(2 if settings.quick else 20):
        for arm, trainer in trainers.items():
            started = time.perf_counter()
            trainer.update([batch])
            times[arm].append(time.perf_counter() - started)
    seconds = {arm: float(np.median(values)) for arm, values in times.items()}
    host, distillation = (seconds[arm] for arm in arms)
    return {"host": host, "distillation": distillation, "ratio": distillation / host}


def points(settings: Settings) -> Outcome:
    """K0, K1 and K3."""
    runs = trained(("B0", "B1", "B6"), settings)
    gap, stop = headroom(runs, settings)
    seconds = step_time(settings)
    if stop is not None:
        return Outcome(stop.verdict, stop.reason, {**stop.metrics, "step": seconds})
    verdicts, words = [], [f"teacher - B0 = {gap:.1f}"]
    for other in ("B0", "B1"):
        verdict, text = exceeds(ap(runs["B6"]), ap(runs[other]))
        clear = difference(ap(runs["B6"]), ap(runs[other]))[0] >= 1.0
        verdicts.append(PASS if verdict == PASS and clear else FAIL if verdict == FAIL else UNRESOLVED)
        words.append(f"B6 - {other} = {text} AP")
    words.append(f"an update takes {seconds['ratio']:.2f} times the host's")
    return Outcome(worst(verdicts), "; ".join(words), {**metrics_of(runs), "step": seconds})


def ablation(settings: Settings) -> Outcome:
    """K2 and K4, and the other pairing."""
    arms = ("B0", "B2", "B4", "B4 unweighted", "B5", "B5 unweighted", "B6")
    runs = trained(arms, settings)
    _, stop = headroom(runs, settings)
    if stop is not None:
        return stop
    best = max(("B4", "B5"), key=lambda arm: np.mean(ap(runs[arm])))
    gap, error = difference(ap(runs["B6"]), ap(runs[best]))
    both = PASS if gap >= -0.3 else FAIL if gap < -0.3 - 2 * error else UNRESOLVED
    weighted, text = exceeds(ap(runs["B4"]), ap(runs["B4 unweighted"]), errors=0.0)
    reason = f"B6 - {best} = {gap:+.4f} +- {error:.4f}; B4 with weights - without = {text} AP"
    return Outcome(worst([both, weighted]), reason, metrics_of(runs))


def controls(settings: Settings) -> Outcome:
    """K5 and K7."""
    runs = trained(("B0", "B6", "E", "F"), settings)
    _, stop = headroom(runs, settings)
    if stop is not None:
        return stop
    gain = difference(ap(runs["B6"]), ap(runs["B0"]))[0]
    queries = difference(ap(runs["E"]), ap(runs["B0"]))[0]
    verdict = PASS if queries < gain / 2 else FAIL
    more = exceeds(ap(runs["B6"]), ap(runs["F"]))[1]
    reason = f"60 queries alone: {queries:+.4f} of {gain:+.4f}; B6 - twice the updates = {more} AP (no expectation)"
    return Outcome(verdict, reason, metrics_of(runs))


def heterogeneous(settings: Settings) -> Outcome:
    """K0 and K1 for a convolutional student."""
    runs = trained(("R0", "R1", "R2"), settings)
    gap, stop = headroom(runs, settings, "R0")
    seconds = step_time(settings, ("R0", "R1"))
    if stop is not None:
        return Outcome(stop.verdict, stop.reason, {**stop.metrics, "step": seconds})
    verdict, text = exceeds(ap(runs["R1"]), ap(runs["R0"]))
    clear = difference(ap(runs["R1"]), ap(runs["R0"]))[0] >= 1.0
    verdict = PASS if verdict == PASS and clear else FAIL if verdict == FAIL else UNRESOLVED
    light = exceeds(ap(runs["R2"]), ap(runs["R0"]))[1]
    reason = (
        f"teacher - R0 = {gap:.1f}; R1 - R0 = {text} AP; with a tenth of the weights {light} AP (no expectation); "
        f"an update takes {seconds['ratio']:.2f} times the host's"
    )
    return Outcome(verdict, reason, {**metrics_of(runs), "step": seconds})


CAVEATS = (
    "a student of 0.2 M parameters on synthetic 64x64 pictures; the gains published for COCO are of other networks",
    "the teacher is one network, trained once with 4 groups of queries; seeds are of the students",
    "an update with distillation costs more; `controls` gives the student alone twice the updates",
)
EXPERIMENTS = {
    "points": Experiment(
        "The teacher is at least 5 AP ahead of the student alone (else inconclusive), and KD-DETR is at least 1.0 AP "
        "better than no distillation and than index-wise distillation, each by more than two standard errors.",
        points,
        caveats=CAVEATS,
    ),
    "ablation": Experiment(
        "Both kinds of points are at most 0.3 AP worse than the better kind alone; weights help general points.",
        ablation,
        caveats=CAVEATS,
    ),
    "controls": Experiment(
        "60 queries without a teacher give less than half of KD-DETR's gain.", controls, caveats=CAVEATS
    ),
    "heterogeneous": Experiment(
        "The teacher, a DINO, is at least 5 AP ahead of a RetinaNet alone (else inconclusive), and distillation at "
        "anchors makes the RetinaNet at least 1.0 AP better, by more than two standard errors.",
        heterogeneous,
        caveats=(
            "a student of 0.1 M parameters on synthetic 64x64 pictures; the published pair has a Faster R-CNN, and "
            "nothing is published for a RetinaNet",
            "the teacher is one network, trained once with 4 groups of queries; seeds are of the students",
            "an update with distillation costs more, and the student alone is not given the difference",
            "a first run, with 4, 5 and 2 for weights, gave -16.1 AP; a dozen variants of weights, classes and points, "
            "tried with another seed, gave nothing (300 updates), so the method's own weights are used",
        ),
    ),
}


def main(argv: Sequence[str] | None = None) -> None:
    """One run: arm, seed, updates, evaluations, data and the teacher's file; its figures as json on the last line."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("arm", choices=["teacher", *ARMS])
    parser.add_argument("seed", type=int)
    parser.add_argument("updates", type=int)
    parser.add_argument("points", type=int)
    parser.add_argument("data", type=Path)
    parser.add_argument("weights", type=Path)
    args = parser.parse_args(argv)
    print(json.dumps(fit(**vars(args))))


if __name__ == "__main__":
    main()
