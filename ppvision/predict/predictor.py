"""The Predictor: what a task reads in, results out, from an exported folder or from a recipe and its weights.

Transforms are the objects evaluation uses, named in the recipe (`data.val.transforms`) and copied into `deploy.yaml` by
the export. Both ways feed networks with raw inputs; the normalisation is in the graph, or in front of the eager
network. Pixels that are no picture (`valid`, where a transform padded) are filled with the mean, which the
normalisation turns into the zero that training and evaluation have there.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ppvision.data.collate import collate
from ppvision.data.fields import is_normalised, start
from ppvision.device import choose_device
from ppvision.errors import UserError
from ppvision.models.network import Input, fixed_batch
from ppvision.predict.deployment import Deployment, deploy_file
from ppvision.predict.deployment import trust as trust_modules
from ppvision.predict.inputs import find_inputs
from ppvision.predict.results import Result
from ppvision.predict.runtime import Runtime
from ppvision.predict.tasks.base import Task, extra_keys

Source = str | os.PathLike | np.ndarray


@dataclass
class Loaded:
    """A source made ready: networks as a task calls them, the task and the transforms."""

    nets: dict[str, Any]
    task: Task
    transform: Any
    model_name: str

    @property
    def batch(self) -> int | None:
        """The fixed batch of the graphs; None where it is free."""
        return max((side for net in self.nets.values() if (side := fixed_batch(net.inputs))), default=None)

    @property
    def picture(self) -> Input | None:
        """The input `image` of the first network that takes one."""
        return next((net.inputs["image"] for net in self.nets.values() if "image" in net.inputs), None)


class Predictor:
    """`Predictor(source)(images) -> list[Result]`, in the order of the images.

    Args:
        source: folder of an export or its deploy.yaml; or a recipe (path or Config).
        device: "cpu", "gpu", or None for gpu where usable.
        backend: "paddle" (Paddle Inference), "onnx", "openvino", "tensorrt"; a recipe runs in eager mode, which is
            "paddle".
        weights: weight file, for a recipe; default by the rule of `predict.assemble`.
        batch_size: samples per call of the networks; those whose transformed sizes differ are never put into one batch.
        overrides: `a.b=1` for a recipe.
        runtime: threads, oneDNN, precision, TensorRT.
        trust: modules of your own that an export may name (`predict.deployment.trust`).
        task_options: of the task, e.g. `flip=True, scales=[0.5, 1.0]`, `palette`.

    Attributes:
        timings: seconds spent so far in "preprocess", "inference", "postprocess"; calls: batches run.
        device: where the networks run.

    Raises:
        UserError: what is wrong with the source, device, backend or images, in one line.
    """

    def __init__(
        self,
        source: Any,
        device: str | None = "cpu",
        backend: str = "paddle",
        *,
        weights: str | os.PathLike | None = None,
        batch_size: int = 1,
        overrides: Sequence[str] = (),
        runtime: Runtime | None = None,
        trust: Sequence[str] = (),
        **task_options: Any,
    ):
        trust_modules(*trust)
        if batch_size < 1:
            raise UserError(f"batch_size must be at least 1, got {batch_size}")
        self.device = choose_device(device)
        self.runtime = runtime or Runtime()
        self.backend = backend
        self.batch_size = batch_size
        self.reset_timings()
        deploy = deploy_file(source)
        if deploy is not None:
            if weights is not None or overrides:
                raise UserError(
                    f"{deploy}: an export has its weights and options inside; give the recipe to change them"
                )
            loaded = _from_export(Deployment.read(deploy), self.device, backend, self.runtime, task_options)
        else:
            if backend != "paddle":
                raise UserError(f"backend {backend} runs an export; give its folder instead of a recipe")
            loaded = _from_config(source, overrides, weights, self.device, task_options)
        self.nets = loaded.nets
        self.task = loaded.task
        self.transform = loaded.transform
        self.model_name = loaded.model_name
        self.fixed_batch = loaded.batch
        self.picture = loaded.picture

    @property
    def input_shape(self) -> tuple[int, ...]:
        """[N,C,H,W] of the picture, -1 where a side is free; empty where none goes in."""
        if self.picture is None:
            return ()
        return tuple(side if isinstance(side, int) else -1 for side in self.picture.shape)

    def reset_timings(self) -> None:
        """Forget the times so far, after a warm-up."""
        self.timings = {"preprocess": 0.0, "inference": 0.0, "postprocess": 0.0}
        self.calls = 0

    def __call__(self, images: Source | Iterable[Source], **extras: Any) -> list[Result]:
        """Predict.

        Args:
            images: path of an image, list file or folder; an array, RGB uint8 [H,W,3]; or a list of images and arrays.
                What a task reads instead of images (point clouds) stands here likewise.
            extras: what the task takes besides, by name (`Task.extras`).
        """
        return [result for _, result in self.stream(self._items(images), **extras)]

    def stream(self, images: Iterable[Source], **extras: Any) -> Iterator[tuple[int, Result]]:
        """(number, result) of single images (paths or arrays), in order; holds no more than a few batches at a time."""
        given = extra_keys(self.task, extras)
        waiting: dict[tuple, list[tuple[int, dict]]] = {}  # by size
        done: dict[int, Result] = {}
        upcoming, held = 0, 0
        for number, image in enumerate(images):
            sample = self._sample(number, image, given)
            size = _size(sample)
            group = waiting.setdefault(size, [])
            group.append((number, sample))
            held += 1
            if len(group) == self.batch_size:
                done.update(self._run(waiting.pop(size)))
            elif held >= 4 * self.batch_size:
                # Rare sizes must not pile up: the group with the oldest image goes as it is.
                done.update(self._run(waiting.pop(min(waiting, key=lambda size: waiting[size][0][0]))))
            while upcoming in done:
                held -= 1
                yield upcoming, done.pop(upcoming)
                upcoming += 1
        for group in waiting.values():
            done.update(self._run(group))
        for number in sorted(done):
            yield number, done[number]

    def _items(self, images: Source | Iterable[Source]) -> list[Source]:
        if isinstance(images, np.ndarray):
            return [images]
        if isinstance(images, (str, os.PathLike)):
            return list(find_inputs(images, self.task.suffixes))
        if not isinstance(images, Iterable):
            raise UserError(f"predict: expected paths or RGB uint8 arrays, got {type(images).__name__}")
        items: list[Source] = []
        for image in images:
            if not isinstance(image, (str, os.PathLike, np.ndarray)):
                raise UserError(f"predict: expected paths or RGB uint8 arrays, got {type(image).__name__} in the list")
            items.extend([image] if isinstance(image, np.ndarray) else find_inputs(image, self.task.suffixes))
        if not items:
            raise UserError("predict: the list of images is empty")
        return items

    def _sample(self, number: int, source: Source, extras: Mapping[str, Any]) -> dict[str, Any]:
        begin = time.perf_counter()
        try:
            sample = self.task.read(source)
        except UserError as error:
            if isinstance(source, np.ndarray):
                raise UserError(f"image {number}: {error}") from None
            raise
        sample = {"name": str(number), **sample, **extras}
        # Evaluation transforms draw nothing; one that does is at least repeatable.
        sample = self.transform(start(sample), np.random.default_rng(0))
        if self.picture is not None and "image" in sample:
            _fits(sample["name"], sample["image"].shape, self.picture)
        self.timings["preprocess"] += time.perf_counter() - begin
        return sample

    def _run(self, group: Sequence[tuple[int, dict]]) -> dict[int, Result]:
        import paddle

        from ppvision.predict.nets import filled, on_device

        begin = time.perf_counter()
        batch = collate([sample for _, sample in group])
        inputs = self.task.inputs(batch)
        count = len(group)
        if self.fixed_batch is not None:
            if count > self.fixed_batch:
                raise UserError(f"batch_size {count}: the graph was exported for batches of {self.fixed_batch}")
            specs = {name: spec for net in self.nets.values() for name, spec in net.inputs.items()}
            inputs = filled(inputs, self.fixed_batch, specs)
        tensors = on_device(inputs)
        prepared = time.perf_counter()
        with paddle.no_grad():
            outputs = self.task.run(self.nets, tensors)
        if self.fixed_batch is not None:
            outputs = {key: value[:count] for key, value in outputs.items()}
        if self.device == "gpu":
            paddle.device.synchronize()
        ran = time.perf_counter()
        results = self.task.results(outputs, batch)
        self.timings["preprocess"] += prepared - begin
        self.timings["inference"] += ran - prepared
        self.timings["postprocess"] += time.perf_counter() - ran
        self.calls += 1
        return {number: result for (number, _), result in zip(group, results)}


def _size(sample: Mapping[str, Any]) -> tuple:
    """What must be equal inside a batch: the shapes of its pictures."""
    return tuple((key, value.shape) for key, value in sample.items() if is_normalised(key))


def _fits(name: str, shape: Sequence[int], picture: Input) -> None:
    for side, given, expected in zip(("height", "width"), shape[:2], picture.shape[2:]):
        if isinstance(expected, int) and expected != given:
            raise UserError(
                f"{name}: {side} is {given} after the transforms, the graph was exported for {expected}; "
                "add a Resize or export with a free input shape"
            )


def _from_export(
    deployment: Deployment, device: str, backend: str, runtime: Runtime, task_options: Mapping[str, Any]
) -> Loaded:
    if deployment.is_part:
        root = deployment.path.parent.parent
        raise UserError(f"{deployment.path}: one part of a deployment, which its task cannot run alone; give {root}")
    task, transform = deployment.make_task(**task_options), deployment.make_transforms()
    return Loaded(deployment.open(backend, device, runtime), task, transform, deployment.model_name)


def _from_config(
    source: Any,
    overrides: Sequence[str],
    weights: str | os.PathLike | None,
    device: str,
    task_options: Mapping[str, Any],
) -> Loaded:
    from ppvision.device import use_device
    from ppvision.predict.assemble import assemble

    use_device(device)
    assembly = assemble(source, overrides, weights, **task_options)
    return Loaded(assembly.eager(), assembly.task, assembly.transform, assembly.cfg.name)
