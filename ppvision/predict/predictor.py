"""The Predictor: images in, results out, from an exported folder or from a recipe and its weights.

Transforms are the objects evaluation uses, named in the recipe (`data.val.transforms`) and copied into `deploy.yaml` by
the export. Both ways feed networks with RGB 0..255; the normalisation is in the graph, or in front of the eager
network. Pixels that are no image (`valid`, where a transform padded) are filled with the mean, which the normalisation
turns into the zero that training and evaluation have there.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ppvision.data.collate import collate
from ppvision.data.fields import start
from ppvision.data.io import read_image
from ppvision.errors import UserError, did_you_mean
from ppvision.predict.inputs import find_images, result_stems
from ppvision.predict.results import RESULT_SUFFIXES, Result
from ppvision.predict.runtime import Runtime, choose_device, open_session
from ppvision.predict.tasks.base import Task, create_task

logger = logging.getLogger("ppvision")

Image = str | os.PathLike | np.ndarray


@dataclass
class Loaded:
    """A source made ready: networks that take RGB 0..255 float32 [B,3,H,W] tensors, the task and the transforms."""

    nets: dict[str, Any]
    task: Task
    transform: Any
    model_name: str
    mean: tuple[float, ...]  # of the normalisation, 0..255
    input_shape: tuple[int, ...] = (-1, 3, -1, -1)


class Predictor:
    """`Predictor(source)(images) -> list[Result]`, in the order of the images.

    Args:
        source: folder of an export or its deploy.yaml; or a recipe (path or Config).
        device: "cpu", "gpu", or None for gpu where usable.
        backend: "paddle" (Paddle Inference), "onnx", "openvino", "tensorrt"; a recipe runs in eager mode, which is
            "paddle".
        weights: weight file, for a recipe; default its `model.weights`.
        batch_size: images per call of the network; images whose transformed sizes differ are never put into one batch.
        overrides: `a.b=1` for a recipe.
        runtime: threads, oneDNN, precision, TensorRT.
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
        **task_options: Any,
    ):
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
            loaded = _from_export(deploy, self.device, backend, self.runtime, task_options)
        else:
            if backend != "paddle":
                raise UserError(f"backend {backend} runs an export; give its folder instead of a recipe")
            loaded = _from_config(source, overrides, weights, self.device, task_options)
        self.nets, self.task, self.transform = loaded.nets, loaded.task, loaded.transform
        self.model_name, self.input_shape, self.mean = loaded.model_name, loaded.input_shape, loaded.mean

    def reset_timings(self) -> None:
        """Forget the times so far, after a warm-up."""
        self.timings = {"preprocess": 0.0, "inference": 0.0, "postprocess": 0.0}
        self.calls = 0

    def __call__(self, images: Image | Iterable[Image]) -> list[Result]:
        """Predict.

        Args:
            images: path of an image, list file or folder; an array, RGB uint8 [H,W,3]; or a list of images and arrays.
        """
        return [result for _, result in self.stream(_items(images))]

    def stream(self, images: Iterable[Image]) -> Iterator[tuple[int, Result]]:
        """(number, result) of single images (paths or arrays), in order; holds no more than a few batches at a time."""
        waiting: dict[tuple[int, ...], list[tuple[int, dict]]] = {}  # by size
        done: dict[int, Result] = {}
        upcoming, held = 0, 0
        for number, image in enumerate(images):
            sample = self._sample(number, image)
            group = waiting.setdefault(sample["image"].shape, [])
            group.append((number, sample))
            held += 1
            if len(group) == self.batch_size:
                done.update(self._run(waiting.pop(sample["image"].shape)))
            elif held >= 4 * self.batch_size:
                # Rare sizes must not pile up: the group with the oldest image goes as it is.
                done.update(self._run(waiting.pop(min(waiting, key=lambda shape: waiting[shape][0][0]))))
            while upcoming in done:
                held -= 1
                yield upcoming, done.pop(upcoming)
                upcoming += 1
        for group in waiting.values():
            done.update(self._run(group))
        for number in sorted(done):
            yield number, done[number]

    def _sample(self, number: int, image: Image) -> dict[str, Any]:
        begin = time.perf_counter()
        if isinstance(image, np.ndarray):
            name, pixels = str(number), _checked_array(image, number)
        else:
            name, pixels = os.fspath(image), read_image(os.fspath(image))
        # Evaluation transforms draw nothing; one that does is at least repeatable.
        sample = self.transform(start({"image": pixels, "name": name}), np.random.default_rng(0))
        shape = sample["image"].shape
        fixed = dict(zip(("height", "width"), zip(self.input_shape[2:], shape[:2])))
        for side, (wanted, given) in fixed.items():
            if wanted > 0 and wanted != given:
                raise UserError(
                    f"{name}: {side} is {given} after the transforms, the graph was exported for {wanted}; "
                    "add a Resize or export with a free input shape"
                )
        self.timings["preprocess"] += time.perf_counter() - begin
        return sample

    def _run(self, group: Sequence[tuple[int, dict]]) -> dict[int, Result]:
        import paddle

        begin = time.perf_counter()
        batch = collate([sample for _, sample in group])
        x_BHWC = batch["image"].astype(np.float32)
        if not batch["valid"].all():
            x_BHWC[~batch["valid"]] = self.mean
        x = np.ascontiguousarray(x_BHWC.transpose(0, 3, 1, 2))
        count, fixed = len(x), self.input_shape[0]
        if fixed > count:
            x = np.concatenate(
                [x, np.repeat(x[-1:], fixed - count, axis=0)]
            )  # a graph of fixed batch; the rest is dropped below
        elif 0 < fixed < count:
            raise UserError(f"batch_size {count}: the graph was exported for batches of {fixed}")
        batch["image"] = paddle.to_tensor(x)
        prepared = time.perf_counter()
        with paddle.no_grad():
            outputs = self.task.run(self.nets, batch)
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


def run(
    source: Any,
    image_path: str | os.PathLike,
    save_dir: str | os.PathLike,
    *,
    weights: str | os.PathLike | None = None,
    device: str | None = None,
    backend: str = "paddle",
    batch_size: int = 1,
    overrides: Sequence[str] = (),
    runtime: Runtime | None = None,
    overlay: bool = True,
    **task_options: Any,
) -> list[dict[str, Any]]:
    """Predict images and write what was found.

    Args:
        image_path: image, list file or folder.
        save_dir: gets the files of each result (a mask: `<stem>.png`, a palette PNG of class ids) and
            `predictions.json`.
        overlay: also a drawing over the image (a mask: `<stem>_overlay.jpg`).
        source, weights, device, backend, batch_size, overrides, runtime, task_options: see `Predictor`.

    Returns:
        The content of `predictions.json`: per image `image`, `files` and the result's own keys.

    Raises:
        UserError: see `Predictor` and `save_results`; a result that would replace an image, before a network is built.
    """
    images = find_images(image_path)
    check_targets(images, save_dir)
    predictor = Predictor(
        source,
        device,
        backend,
        weights=weights,
        batch_size=batch_size,
        overrides=overrides,
        runtime=runtime,
        **task_options,
    )
    return save_results(predictor, images, save_dir, overlay=overlay)


def save_results(
    predictor: Predictor, images: Sequence[Path], save_dir: str | os.PathLike, *, overlay: bool = True
) -> list[dict[str, Any]]:
    """Predict and save one by one, so that the memory does not grow with the number of images; see `run`.

    An earlier `predictions.json` goes away first. Where an image cannot be read, or the program is interrupted, what
    was done until then stays and `predictions.json` lists it, so the file never speaks of other results than those
    beside it.

    Raises:
        UserError: an image cannot be read, or the results cannot be written.
    """
    folder = Path(save_dir)
    check_targets(images, folder)
    stems = result_stems(images)
    records: list[dict[str, Any]] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        index = folder / "predictions.json"
        index.unlink(missing_ok=True)
        try:
            for number, result in predictor.stream(images):
                image = read_image(os.fspath(images[number])) if overlay else None
                files = result.save(folder, stems[number], image)
                record = {"image": os.fspath(images[number]), "files": [file.name for file in files]}
                records.append({**record, **{k: v for k, v in result.to_json().items() if k != "name"}})
        finally:
            index.write_text(json.dumps(records, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"{folder}: results cannot be written ({error.strerror or error})") from None
    return records


def check_targets(images: Sequence[str | os.PathLike], save_dir: str | os.PathLike) -> None:
    """Refuse a folder where a result would replace one of the images, also through a link.

    Raises:
        UserError: naming the folder and the first such image.
    """
    own = {}
    for image in images:
        if os.path.exists(image):
            found = os.stat(image)
            own[found.st_dev, found.st_ino] = image
    for stem in result_stems(images):
        for suffix in RESULT_SUFFIXES:
            try:
                found = os.stat(os.path.join(save_dir, stem + suffix))
            except OSError:  # nothing there that could be replaced; whether it can be written shows later
                continue
            if (found.st_dev, found.st_ino) in own:
                raise UserError(
                    f"{os.fspath(save_dir)}: the result {stem}{suffix} would replace the image "
                    f"{os.fspath(own[found.st_dev, found.st_ino])}; give another --save_dir"
                )


def _items(images: Image | Iterable[Image]) -> list[Image]:
    if isinstance(images, np.ndarray):
        return [images]
    if isinstance(images, (str, os.PathLike)):
        return list(find_images(images))
    if not isinstance(images, Iterable):
        raise UserError(f"predict: expected paths or RGB uint8 arrays, got {type(images).__name__}")
    items: list[Image] = []
    for image in images:
        if not isinstance(image, (str, os.PathLike, np.ndarray)):
            raise UserError(f"predict: expected paths or RGB uint8 arrays, got {type(image).__name__} in the list")
        items.extend([image] if isinstance(image, np.ndarray) else find_images(image))
    if not items:
        raise UserError("predict: the list of images is empty")
    return items


def _checked_array(image: np.ndarray, number: int) -> np.ndarray:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise UserError(f"image {number}: expected RGB uint8 [H,W,3], got {image.dtype} {list(image.shape)}")
    return image


def deploy_file(source: Any) -> Path | None:
    """The deploy.yaml that `source` means, or None when it is a recipe."""
    if not isinstance(source, (str, os.PathLike)):
        return None
    path = Path(source)
    if path.is_dir():
        if not (path / "deploy.yaml").is_file():
            inside = sorted(p.parent.name for p in path.glob("*/deploy.yaml"))
            hint = f"; it has several networks, choose one of: {', '.join(inside)}" if inside else ""
            raise UserError(f"{path}: no deploy.yaml in this folder{hint}")
        return path / "deploy.yaml"
    return path if path.name == "deploy.yaml" or (path.is_file() and _is_deploy(path)) else None


def _is_deploy(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4096).lstrip().startswith((b"Deploy:", b"PPVision:"))


# What the Predictor reads, by block; the other keys are for people and other programs.
_DEPLOY_KEYS: dict[str, dict[str, type]] = {
    "Deploy": {"model": str, "params": str, "input_shape": list},
    "PPVision": {
        "task": str,
        "model_name": str,
        "outputs": list,
        "transforms": list,
        "postprocess": Mapping,
        "normalisation": Mapping,
        "sha256": Mapping,
    },
}


def read_deploy(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The `Deploy` and `PPVision` blocks of a deploy.yaml.

    Raises:
        UserError: not readable, or without what an export has; one line with the file and the key.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; `ppvision export` writes it")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not YAML ({error})") from None
    if not isinstance(content, Mapping) or not {"Deploy", "PPVision"} <= set(content):
        raise UserError(f"{path}: has no Deploy and PPVision block; was it written by `ppvision export`?")
    for block, keys in _DEPLOY_KEYS.items():
        for key, kind in keys.items():
            value = content[block].get(key) if isinstance(content[block], Mapping) else None
            if not isinstance(value, kind):
                said = "is missing" if value is None else f"is {value!r}"
                raise UserError(f"{path}: {block}.{key} {said}; the file was damaged or altered, export again")
    deploy, ours = content["Deploy"], content["PPVision"]
    mean, shape = ours["normalisation"].get("mean"), deploy["input_shape"]
    rows = [
        ("PPVision.normalisation.mean", isinstance(mean, list) and len(mean) == 3 and _numbers(mean)),
        ("Deploy.input_shape", len(shape) == 4 and _numbers(shape)),
        *((f"PPVision.{k}", isinstance(ours.get(k) or [], list)) for k in ("labels", "palette")),
        ("PPVision.outputs", ours["outputs"] and all(isinstance(o, Mapping) and "name" in o for o in ours["outputs"])),
    ]
    for key, right in rows:
        if not right:
            raise UserError(
                f"{path}: {key} is not what an export writes; the file was damaged or altered, export again"
            )
    return deploy, ours


def _numbers(values: Sequence[Any]) -> bool:
    return all(isinstance(value, (int, float)) for value in values)


def onnx_name(folder: str | os.PathLike) -> str:
    """Name of the ONNX file that belongs to the export in `folder`."""
    return str(Path(read_deploy(Path(folder) / "deploy.yaml")[0]["model"]).with_suffix(".onnx"))


def check_files(folder: Path, names: Sequence[str], digests: Mapping[str, str]) -> None:
    """Compare files with the hashes of the export.

    Raises:
        UserError: a file is missing, unknown to the export, or altered.
    """
    for name in names:
        path = folder / name
        if name not in digests:
            raise UserError(f"{path}: this export has no such file (it has: {', '.join(sorted(digests))})")
        if not path.is_file():
            raise UserError(f"{path}: missing; export again")
        if sha256(path) != digests[name]:
            raise UserError(f"{path}: sha256 differs from deploy.yaml; the file was altered or damaged, export again")


def sha256(path: Path) -> str:
    """Hexadecimal digest of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _from_export(path: Path, device: str, backend: str, runtime: Runtime, task_options: Mapping[str, Any]) -> Loaded:
    deploy, ours = read_deploy(path)
    transform = _deployed_transforms(path, ours["transforms"])
    folder = path.parent
    onnx = onnx_name(folder)
    names = [deploy["model"], deploy["params"]] if backend in ("paddle", "tensorrt") else [onnx]
    check_files(folder, names, ours["sha256"])
    if runtime.shape_profile is None and ours.get("shape_profile"):
        runtime = replace(runtime, shape_profile=ours["shape_profile"])
    session = open_session(
        backend, device, runtime, model=folder / deploy["model"], params=folder / deploy["params"], onnx=folder / onnx
    )
    names = [output["name"] for output in ours["outputs"]]
    options = {"class_names": ours.get("labels") or (), "palette": ours.get("palette")}
    options.update({k: v for k, v in ours["postprocess"].items() if k != "type"})
    options.update(task_options)
    task = create_task(ours["task"], **options)
    net = _session_net(session, names)
    shape, mean = tuple(deploy["input_shape"]), tuple(ours["normalisation"]["mean"])
    return Loaded({"model": net}, task, transform, ours["model_name"], mean, shape)


def _deployed_transforms(path: Path, items: Sequence[Any]) -> Any:
    """The transforms of a deploy.yaml. Unlike a recipe it may name only those of the suite: an export is data that is
    passed on, and a dotted path would run whatever it names."""
    from ppvision.config import Component
    from ppvision.data import TRANSFORMS
    from ppvision.data.transforms.image import build_transforms

    components = [Component(item, f"PPVision.transforms.{i}", lambda _: str(path)) for i, item in enumerate(items)]
    for component in components:
        if component.type not in TRANSFORMS:
            near = did_you_mean(component.type, TRANSFORMS)
            raise UserError(
                f"{path}: {component.path}: no transform '{component.type}'{near}; a deploy.yaml may name only those "
                "of ppvision.data.TRANSFORMS"
            )
    return build_transforms(components)


def _session_net(session: Any, names: Sequence[str]) -> Any:
    import paddle

    def net(x: paddle.Tensor) -> Any:
        outputs = [paddle.to_tensor(output) for output in session(x.numpy())]
        return outputs[0] if len(names) == 1 else dict(zip(names, outputs))

    net.takes_valid = False  # a graph has one input
    return net


def build_network(cfg: Any, weights: str | os.PathLike | None) -> Any:
    """The recipe's network with weights, in evaluation mode.

    Args:
        cfg: a Config.
        weights: a weight file, a checkpoint folder, or a name without `.pdparams`; default `model.weights`.

    Raises:
        UserError: no weights are named, or they do not fit.
    """
    from ppvision.config import build
    from ppvision.models.zoo import deployables
    from ppvision.weights import load_weights

    weights = weights or cfg.model.weights
    if not weights:
        raise UserError(
            f"{cfg.path or 'config'}: no weights; give --model_path output/{cfg.name}/best_model/model.pdparams"
        )
    net = build("model", cfg.model)
    parts = deployables(net)
    # A checkpoint of several deployables has keys `<name>.<key>`.
    load_weights(next(iter(parts.values())) if len(parts) == 1 else _joined(parts), weights)
    net.eval()
    return net


def _joined(parts: Mapping[str, Any]) -> Any:
    from paddle import nn

    joined = nn.Layer()
    for name, layer in parts.items():
        joined.add_sublayer(name, layer)
    return joined


def statistics_of(cfg: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(mean, std) on the 0..255 scale: the zoo entry's, or `data.mean` and `data.std` for a model named by dotted
    path."""
    from ppvision.models.zoo import ZOO

    if cfg.data.mean is not None and cfg.data.std is not None:
        return tuple(cfg.data.mean), tuple(cfg.data.std)
    if cfg.model.type in ZOO:
        return ZOO[cfg.model.type].mean_std
    raise UserError(
        f"{cfg.path or 'config'}: model '{cfg.model.type}' is not in the zoo: set data.mean and data.std (0..255)"
    )


def task_name(cfg: Any) -> str:
    """The task of a recipe's model: the zoo entry's, or `eval.task` for a model named by dotted path (default
    segmentation)."""
    from ppvision.models.zoo import ZOO

    if cfg.eval.task is not None:
        return cfg.eval.task
    return ZOO[cfg.model.type].task if cfg.model.type in ZOO else "segmentation"


def labels_of(cfg: Any, dataset: Any | None) -> tuple[list[str], np.ndarray | None]:
    """(class names, palette) of the validation set; of its format where the files are not on this machine; else ([],
    None)."""
    from ppvision.config import resolve

    if dataset is None and cfg.data.val is not None and cfg.data.val.type is not None:
        dataset = resolve("dataset", cfg.data.val.type)
    names, palette = list(getattr(dataset, "class_names", None) or []), getattr(dataset, "palette", None)
    return names, palette if names and palette is not None and len(palette) else None


def validation_set(cfg: Any) -> Any | None:
    """The validation data set, or None where the recipe has none or its files are not here: deployment must not need
    them."""
    from ppvision.config import build

    if cfg.data.val is None or cfg.data.val.type is None:
        return None
    try:
        return build("dataset", cfg.data.val)
    except (UserError, OSError) as error:
        logger.debug("validation set not used: %s", error)
        return None


def _from_config(
    source: Any,
    overrides: Sequence[str],
    weights: str | os.PathLike | None,
    device: str,
    task_options: Mapping[str, Any],
) -> Loaded:
    import paddle

    from ppvision.config import load
    from ppvision.data.transforms.image import build_transforms
    from ppvision.device import use_device
    from ppvision.models.zoo import deployables

    cfg = load(source, overrides)
    use_device(device)
    net = build_network(cfg, weights)
    statistics = statistics_of(cfg)
    mean, std = (paddle.to_tensor(np.asarray(v, np.float32).reshape(1, -1, 1, 1)) for v in statistics)
    nets = {name: _normalised(layer, mean, std) for name, layer in deployables(net).items()}
    names, palette = labels_of(cfg, validation_set(cfg))
    task = create_task(task_name(cfg), **{"class_names": names, "palette": palette, **task_options})
    transforms = cfg.data.val.transforms if cfg.data.val is not None else []
    return Loaded(nets, task, build_transforms(transforms), cfg.name, tuple(statistics[0]))


def _normalised(layer: Any, mean: Any, std: Any) -> Any:
    return lambda x, *more: layer((x - mean) / std, *more)
