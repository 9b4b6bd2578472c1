"""What an update costs on the processor: transposes as copies against transposes as views."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from tools.experiments import FAIL, PASS, UNRESOLVED, Experiment, Outcome, Settings

FLAG = "FLAGS_use_stride_kernel"
LEAST, SAME = 1.1, 0.95  # wanted of transformers, allowed for convolutions


def maformer() -> tuple[Any, dict[str, Any]]:
    """MAFormer of the Fashion-MNIST recipes, 64 pictures of 28x28."""
    import paddle

    from ppvision.config import load
    from ppvision.methods.classification import Classification
    from ppvision.models import zoo

    arguments = load("configs/maformer/maformer_fashion_mini.yml").model
    rng = np.random.default_rng(0)
    batch = pictures(rng, 64, 28) | {"label": paddle.to_tensor(rng.integers(0, 10, 64))}
    return Classification(zoo.create_model(arguments.type, **arguments.kwargs)), batch


def dino() -> tuple[Any, dict[str, Any]]:
    """DINO, debug size, 16 pictures of 64x64 with two objects each."""
    import paddle

    from ppvision.methods.detr import DetrTraining
    from ppvision.models import zoo

    batch = pictures(np.random.default_rng(0), 16, 64) | {
        "inner": paddle.full([16, 2], 64, "int32"),
        "boxes": paddle.to_tensor(np.tile(np.array([[8, 8, 30, 40], [20, 20, 50, 45]], "float32"), (16, 1))),
        "classes": paddle.to_tensor(np.tile([0, 1], 16)),
        "crowd": paddle.zeros([32], "bool"),
        "boxes_offsets": paddle.arange(0, 33, 2, dtype="int64"),
    }
    return DetrTraining(zoo.create_model("dino_debug", num_classes=4)), batch


def rtformer() -> tuple[Any, dict[str, Any]]:
    """RTFormer, debug size, 4 pictures of 128x128."""
    import paddle

    from ppvision.methods.supervised import Supervised
    from ppvision.models import zoo

    rng = np.random.default_rng(0)
    label = paddle.to_tensor(rng.integers(0, 5, (4, 128, 128)))
    return Supervised(zoo.create_model("rtformer_debug", num_classes=5)), pictures(rng, 4, 128) | {"label": label}


def pictures(rng: np.random.Generator, count: int, side: int) -> dict[str, Any]:
    """Noise of square pictures."""
    import paddle

    return {
        "image": paddle.to_tensor(rng.integers(0, 256, (count, side, side, 3)).astype("uint8")),
        "valid": paddle.ones([count, side, side], "bool"),
        "name": [str(i) for i in range(count)],
    }


CASES: dict[str, tuple[Callable[[], tuple[Any, dict[str, Any]]], float]] = {
    "MAFormer": (maformer, LEAST),
    "DINO": (dino, LEAST),
    "RTFormer": (rtformer, SAME),
}


def views(settings: Settings) -> Outcome:
    """Updates of one network in turns with and without views, in one process on one core."""
    import paddle

    from ppvision.engine.optimizer import AdamW
    from ppvision.engine.schedule import Constant
    from ppvision.engine.trainer import Trainer

    if not paddle.get_device().startswith("cpu"):
        return Outcome(UNRESOLVED, f"the device is {paddle.get_device()}; this is about the processor", {})
    before, metrics, verdict = paddle.get_flags(FLAG), {}, PASS
    try:
        for name, (build, least) in CASES.items():
            paddle.seed(0)
            method, batch = build()
            trainer = Trainer(method, lambda _, parameters: (AdamW(parameters, lr=1e-4), Constant(1e-4, 1000)))
            seconds: dict[bool, list[float]] = {True: [], False: []}
            for turn in range(3 if settings.quick else 25):
                for with_views in (True, False):
                    paddle.set_flags({FLAG: with_views})
                    begin = time.process_time()
                    trainer.update([batch])
                    if turn:  # the first of each is warm-up
                        seconds[with_views].append(time.process_time() - begin)
            median = {k: float(np.median(v)) for k, v in seconds.items()}
            ratio = median[True] / median[False]
            metrics[name] = {"seconds": {"views": median[True], "copies": median[False]}, "ratio": ratio}
            verdict = verdict if ratio >= least else FAIL
    finally:
        paddle.set_flags(before)
    words = ", ".join(f"{name} {row['ratio']:.2f}" for name, row in metrics.items())
    return Outcome(verdict, f"times as fast with copies: {words}", metrics)


EXPERIMENTS = {
    "views": Experiment(
        f"On the processor an update of a transformer is at least {LEAST} times as fast when transposes are copies, "
        "and that of a convolutional network not slower by more than a twentieth.",
        views,
        seeds=(0,),
        caveats=("debug sizes, one core; on a GPU views stay on, and nothing was measured",),
    )
}
