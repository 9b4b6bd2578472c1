"""Predict and leave files: results, drawings and `predictions.json`."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from ppvision.config import load
from ppvision.errors import UserError
from ppvision.predict.assemble import task_name
from ppvision.predict.deployment import Deployment, deploy_file
from ppvision.predict.inputs import find_inputs, result_stems
from ppvision.predict.predictor import Predictor
from ppvision.predict.results import RESULT_SUFFIXES
from ppvision.predict.runtime import Runtime
from ppvision.predict.tasks.base import task_class


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
    extras: Mapping[str, Any] | None = None,
    **task_options: Any,
) -> list[dict[str, Any]]:
    """Predict images and write what was found.

    Args:
        image_path: image, list file or folder.
        save_dir: gets the files of each result (a mask: `<stem>.png`, a palette PNG of class ids) and
            `predictions.json`.
        overlay: also a drawing over the image (a mask: `<stem>_overlay.jpg`).
        extras: what the task takes besides, by name.
        source, weights, device, backend, batch_size, overrides, runtime, task_options: see `Predictor`.

    Returns:
        The content of `predictions.json`: per image `image`, `files` and the result's own keys.

    Raises:
        UserError: see `Predictor` and `save_results`; a result that would replace an image, before a network is built.
    """
    images = find_inputs(image_path, suffixes_of(source, overrides))
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
    return save_results(predictor, images, save_dir, overlay=overlay, extras=extras)


def suffixes_of(source: Any, overrides: Sequence[str] = ()) -> Collection[str]:
    """What the task of an export or a recipe reads; no network is built for that."""
    deploy = deploy_file(source)
    name = Deployment.read(deploy).task if deploy is not None else task_name(load(source, overrides))
    return task_class(name).suffixes


def save_results(
    predictor: Predictor,
    images: Sequence[Path],
    save_dir: str | os.PathLike,
    *,
    overlay: bool = True,
    extras: Mapping[str, Any] | None = None,
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
            for number, result in predictor.stream(images, **(extras or {})):
                image = predictor.task.canvas(images[number]) if overlay else None
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
