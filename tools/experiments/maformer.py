"""MAFormer in miniature: what does fusing a local and a global stream by attention buy?

`fusion` and `four_stages` are experiment A of the specification, `tokens` is C, `digits` B; `fashion` is the recipe on
Fashion-MNIST against its time limits.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from ppvision.errors import RunError
from tools.experiments import FAIL, PASS, UNRESOLVED, Experiment, Outcome, Settings, exceeds, summary, worst

ROOT = Path(__file__).resolve().parents[2]
SIZE, GLYPH = 64, 12
ARMS = {  # arm -> arguments; `mlp_ratio` is set so that all arms have the same number of parameters within 3 %
    "window only": {"fusion": "none"},
    "global only": {"fusion": "global", "gld": "fc"},
    "llf": {"fusion": "llf", "gld": "fc"},
    "concat": {"fusion": "concat", "gld": "fc"},
    "maf": {"fusion": "maf", "gld": "fc"},
    "maf, conv": {"fusion": "maf", "gld": "conv"},
    "maf, pool": {"fusion": "maf", "gld": "pool"},
}
TWO_STAGES = dict(width=16, depths=(1, 1), windows=(4, 4), fused_stages=2)
FOUR_STAGES = dict(width=16, depths=(1, 1, 2, 1), windows=(4, 4, 4, 4), fused_stages=3)


def glyphs() -> list[np.ndarray]:
    """Six shapes, bool [12,12]."""
    y, x = np.mgrid[:GLYPH, :GLYPH] - (GLYPH - 1) / 2
    r = np.hypot(y, x)
    square, disc = np.maximum(abs(y), abs(x)) < 5, r < 6
    plus, cross = (np.minimum(abs(y), abs(x)) < 2), (np.minimum(abs(y - x), abs(y + x)) < 2.2)
    return [square, disc, disc & (r > 3), plus, cross, (abs(x) < (y + 6) / 2)]


def pairs(count: int, seed: int) -> dict[str, np.ndarray]:
    """ "Match at distance": a red glyph A with a fine texture and a plain blue glyph B, at least 24 pixels apart, among
    grey blots and noise. Class = 2 (same shape?) + (A's stripes vertical?), each half the time.

    Returns:
        `image` uint8 [N,64,64,3]; `label` [N]; `token_label` [N,16,16]: 0 elsewhere, 1 + shape on A and on B.
    """
    rng, shapes = np.random.default_rng([seed, 7]), glyphs()
    images = rng.normal(90, 14, (count, SIZE, SIZE, 3))
    labels, tokens = np.zeros(count, np.int64), np.zeros((count, SIZE // 4, SIZE // 4), np.int64)
    stripes = (np.arange(GLYPH) // 2 % 2)[None, :].repeat(GLYPH, 0)
    for n in range(count):
        same, vertical = rng.integers(2), rng.integers(2)
        first = rng.integers(6)
        second = first if same else (first + rng.integers(1, 6)) % 6
        while True:
            places = rng.integers(0, SIZE - GLYPH + 1, (2, 2))
            if np.hypot(*(places[0] - places[1])) >= 24:
                break
        for _ in range(4):
            y, x = rng.integers(0, SIZE - 5, 2)
            images[n, y : y + 5, x : x + 5] += rng.normal(0, 30)
        texture = stripes if vertical else stripes.T
        for shape, (y, x), channel, fill in (
            (first, places[0], 0, 60 + 90 * texture),
            (second, places[1], 2, np.full((GLYPH, GLYPH), 105)),
        ):
            images[n, y : y + GLYPH, x : x + GLYPH, channel] += shapes[shape] * fill
            tokens[n, (y + 2) // 4 : (y + 10) // 4, (x + 2) // 4 : (x + 10) // 4] = 1 + shape
        labels[n] = 2 * same + vertical
    return {"image": np.clip(images, 0, 255).astype(np.uint8), "label": labels, "token_label": tokens}


def network(arm: dict[str, Any], layout: dict[str, Any], num_classes: int = 4, **more: Any):
    """MAFormer for 64x64 pictures: 16x16 tokens after the stem, 16 global tokens."""
    from ppvision.models.maformer import MAFormer

    options = dict(head_dim=16, image_size=SIZE, gld_side=4, **layout)
    return MAFormer(num_classes, **{**options, **arm, **more})


def matched(layout: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The arms with the hidden width that gives each the parameters of "maf" with ratio 2, as near as it goes."""
    from ppvision.models.profile import parameters

    target = parameters(network(ARMS["maf"], layout, mlp_ratio=2.0))
    out = {}
    for name, arm in ARMS.items():
        ratios = np.arange(1.0, 8.0, 1 / 16)
        low, high = (parameters(network(arm, layout, mlp_ratio=r)) for r in (1.0, 2.0))
        guess = 1.0 + (target - low) / (high - low)
        out[name] = {**arm, "mlp_ratio": float(ratios[np.abs(ratios - guess).argmin()])}
    return out


def one_arm(
    name: str, arm: dict[str, Any], seed: int, layout: dict[str, Any], quick: bool
) -> tuple[float, dict[str, Any]]:
    """Test accuracy and cost of one arm trained with one seed."""
    import paddle

    from ppvision.methods.classification import Classification
    from ppvision.models.profile import profile
    from tools.experiments import _arrays

    count, updates = (64, 2) if quick else (6000, 6000 * 20 // 64)
    train, test = pairs(count, 2 * seed), pairs(min(count, 1000), 2 * seed + 1)
    paddle.seed(seed)
    method = Classification(network(arm, layout))
    cost = profile(method.model, {"image": ((1, 3, SIZE, SIZE), "float32")})
    _arrays.fit(method, train, updates=updates, batch_size=64, lr=1e-3, seed=seed)
    accuracy = _arrays.accuracy(method, test)
    print(f"  seed {seed}, {name}: {accuracy:.4f}", flush=True)
    return accuracy, {"params": cost.params, "macs": cost.macs}


def compare(settings: Settings, layout: dict[str, Any]) -> Outcome:
    """All arms over all seeds."""
    from tools.experiments import _parallel

    arms = matched(layout)
    tasks = [(name, arm, seed, layout, settings.quick) for seed in settings.seeds for name, arm in arms.items()]
    run = _parallel.in_processes
    found = [one_arm(*task) for task in tasks] if settings.quick else run(one_arm, tasks)
    accuracies: dict[str, list[float]] = {name: [] for name in ARMS}
    metrics: dict[str, Any] = {}
    for (name, *_), (accuracy, cost) in zip(tasks, found):
        accuracies[name].append(accuracy)
        metrics[name] = cost
    for name, values in accuracies.items():
        metrics[name]["accuracy"] = summary(values)
    verdicts, words = [], []
    for other in ("window only", "global only"):
        verdict, gap = exceeds(accuracies["maf"], accuracies[other])
        verdicts.append(verdict)
        words.append(f"maf - {other} = {gap}")
    for other in ("llf", "concat"):
        words.append(f"maf - {other} = {exceeds(accuracies['maf'], accuracies[other])[1]} (no expectation)")
    return Outcome(worst(verdicts), "; ".join(words), metrics)


def fusion(settings: Settings) -> Outcome:
    return compare(settings, TWO_STAGES)


def four_stages(settings: Settings) -> Outcome:
    return compare(settings, FOUR_STAGES)


def tokens(settings: Settings) -> Outcome:
    """Token labels of weight 0 and 0.5 on the same task."""
    import paddle

    from ppvision.methods.classification import TokenLabelling
    from tools.experiments import _arrays

    count, updates = (64, 2) if settings.quick else (6000, 6000 * 20 // 64)
    layout = {**TWO_STAGES, "depths": (1, 1)}
    accuracies: dict[str, list[float]] = {"beta 0": [], "beta 0.5": []}
    for seed in settings.seeds:
        train, test = pairs(count, 2 * seed), pairs(min(count, 1000), 2 * seed + 1)
        # Classes 0..3 are the task's, 4..10 those of the token map: one set of logits serves both heads.
        train["token_label"] = 4 + train["token_label"].reshape(-1, 8, 2, 8, 2).max((2, 4))
        for name, beta in (("beta 0", 0.0), ("beta 0.5", 0.5)):
            paddle.seed(seed)
            net = network(ARMS["maf"], layout, num_classes=11, mlp_ratio=2.0)
            method = TokenLabelling(net, beta=beta, mix_token=False, label_smoothing=0.0)
            _arrays.fit(method, train, updates=updates, batch_size=64, lr=1e-3, seed=seed)
            accuracies[name].append(_arrays.accuracy(method, test))
            print(f"  seed {seed}, {name}: {accuracies[name][-1]:.4f}", flush=True)
    verdict, gap = exceeds(accuracies["beta 0.5"], accuracies["beta 0"])
    return Outcome(verdict, f"with - without = {gap}", {k: {"accuracy": summary(v)} for k, v in accuracies.items()})


def digits(settings: Settings) -> Outcome:
    """scikit-learn's digits, enlarged to 32 pixels."""
    import cv2
    import paddle

    from ppvision.data.formats.imagefolder import ImageFolder
    from ppvision.methods.classification import Classification
    from tools.experiments import _arrays

    def arrays(split: str) -> dict[str, np.ndarray]:
        folder = ImageFolder(str(settings.data / "digits"), split)
        samples = [folder[i] for i in range(len(folder))]
        images = [cv2.resize(s["image"], (32, 32), interpolation=cv2.INTER_LINEAR) for s in samples]
        return {"image": np.stack(images), "label": np.array([s["label"] for s in samples])}

    train, test = arrays("train"), arrays("val")
    epochs = 10
    updates = 3 if settings.quick else epochs * len(train["image"]) // 32
    values = []
    for seed in settings.seeds:
        paddle.seed(seed)
        layout = dict(width=32, depths=(1, 2), windows=(4, 4), fused_stages=2, image_size=32)
        method = Classification(network(ARMS["maf"], {}, num_classes=10, **layout))
        _arrays.fit(method, train, updates=updates, batch_size=32, lr=2e-3, seed=seed)
        values.append(_arrays.accuracy(method, test))
    verdict = PASS if min(values) > 0.95 else FAIL
    reason = f"accuracy {', '.join(f'{v:.4f}' for v in values)} after {epochs} epochs"
    return Outcome(verdict, reason, {"accuracy": summary(values)})


LIMITS = {  # recipe -> accuracy, seconds on two cores
    "maformer_fashion_mini": (0.87, 12 * 60),
    "maformer_fashion": (0.90, 40 * 60),
}


def fashion(settings: Settings) -> Outcome:
    """Both recipes as a user with two cores would run them: two processes of half the batch each (one process keeps one
    core busy), timed from the first command to the last evaluation."""
    metrics: dict[str, Any] = {}
    verdicts, words = [], []
    for recipe, (least, limit) in LIMITS.items():
        values, seconds = [], []
        for seed in settings.seeds:
            with tempfile.TemporaryDirectory() as folder:
                overrides = [
                    f"train.seed={seed}",
                    "train.batch_size=32",
                    f"data.root={(settings.data / 'fashion_mnist/idx').resolve()}",
                    *(["train.epochs=null", "train.iters=2", "train.save_interval=2"] if settings.quick else []),
                ]
                started = time.perf_counter()
                values.append(_launched(f"configs/maformer/{recipe}.yml", overrides, Path(folder)))
                seconds.append(time.perf_counter() - started)
            print(f"  {recipe}, seed {seed}: top-1 {values[-1]:.4f} in {seconds[-1]:.0f} s", flush=True)
        metrics[recipe] = {"top1": summary(values), "seconds": summary(seconds), "wanted": least, "limit": limit}
        good, fast = min(values) >= least, max(seconds) <= limit
        verdicts.append(PASS if good and fast else UNRESOLVED if good else FAIL)
        words.append(f"{recipe}: {min(values):.4f} (wanted {least}) in {max(seconds):.0f} s (limit {limit})")
    return Outcome(worst(verdicts), "; ".join(words), metrics)


def _launched(recipe: str, overrides: list[str], folder: Path) -> float:
    """Train in two processes; top-1 of the last evaluation."""
    command = [sys.executable, "-m", "paddle.distributed.launch", "--nproc_per_node", "2", "--log_dir", f"{folder}/log"]
    command += [str(ROOT / "tools/train.py"), "-c", str(ROOT / recipe), "--save_dir", f"{folder}/run", "-o", *overrides]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        raise RunError(f"{recipe}: training ended with status {done.returncode}:\n{done.stdout[-2000:]}")
    events = [json.loads(line) for line in (folder / "run/log.jsonl").read_text().splitlines()]
    return [e for e in events if e["kind"] == "eval"][-1]["metrics"]["top1"]


SMALL = "networks of 20-odd thousand parameters on synthetic 64x64 pictures say little about ImageNet"
EXPERIMENTS = {
    "fashion": Experiment(
        "Fashion-MNIST, debug size: test accuracy of at least 0.87 in 12 minutes and 0.90 in 40 minutes on two cores.",
        fashion,
        seeds=(0,),
        caveats=(
            "seconds are wall-clock: on a busy machine the accuracy can be reached and the limit missed (UNRESOLVED)",
            "two processes of batch 32 equal one of batch 64: gradients are averaged, the network has no BatchNorm",
            "the accuracy is that of the last evaluation, not of the best",
        ),
    ),
    "fusion": Experiment(
        "Match at distance, two stages, parameters equal within 3 %: fusion by attention is better than window-only "
        "and better than global-only by more than two standard errors.",
        fusion,
        caveats=(
            SMALL,
            "widths of the hidden layers differ between the arms, to match parameters; multiply-adds are reported",
        ),
    ),
    "four_stages": Experiment(
        "Control: the same with four stages, where the last attends globally and window-only may close the gap.",
        four_stages,
        caveats=(SMALL, "no outcome is expected; the verdict uses the rule of `fusion`"),
    ),
    "tokens": Experiment(
        "Match at distance: token labels of weight 0.5 help, by more than two standard errors.",
        tokens,
        caveats=(SMALL, "the labels are exact, from the generator; those of a classifier are not"),
    ),
    "digits": Experiment(
        "scikit-learn digits at 32 pixels: above 0.95 after 10 epochs on every seed.",
        digits,
        caveats=(
            "with global tokens by convolution instead of fixed weights the same seeds gave 0.961, 0.946, 0.966: FAIL",
            "fixed weights were then chosen on 300 training pictures that were left out, with other seeds",
        ),
    ),
}
