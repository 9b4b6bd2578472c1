"""Pictures of predictions beside their inputs, for the last steps of `make train`.

    python tools/pictures.py list --config RUN/config.yml --output RUN/predictions/images.txt
    python deploy/python/infer.py --config RUN/export/deploy.yaml --image_path RUN/predictions/images.txt ...
    python tools/pictures.py beside --config RUN/config.yml --predictions RUN/predictions

`list` writes the images of the recipe's validation split, relative to the list; `beside` puts next to each of them its
labels, where there are any, and the drawing of what was predicted, and writes `<stem>_beside.png`.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ppvision.config import build, load
from ppvision.data import Dataset
from ppvision.errors import UserError
from ppvision.predict import drawing

GAP, CAPTION = 8, 18  # pixels of white between panels, and above each for its caption


def validation(config: str) -> Dataset:
    """The validation data of a recipe.

    Raises:
        UserError: the recipe has none.
    """
    cfg = load(config)
    if cfg.data.val is None:
        raise UserError(f"{config}: no data.val section, so there is nothing to draw")
    return build("dataset", cfg.data.val)


def stem_of(dataset: Dataset, index: int) -> str:
    """What the results of an image are called: its file's stem, or its number where it has no file."""
    file = Path(dataset.name(index))
    return file.stem if file.is_file() else str(index)


def write_list(dataset: Dataset, path: Path, limit: int) -> int:
    """Writes the paths of the first `limit` images, relative to the list's folder; returns their number. Images that
    are no files of their own (idx) are written into `inputs` beside the list.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    names = []
    for i in range(min(limit, len(dataset))):
        file = Path(dataset.name(i))
        if not file.is_file():
            file = path.parent / "inputs" / f"{stem_of(dataset, i)}.png"
            file.parent.mkdir(exist_ok=True)
            drawing.write_image(file, dataset[i]["image"])
        names.append(os.path.relpath(file, path.parent))
    path.write_text("".join(f"{name}\n" for name in names), "utf-8")
    return len(names)


def read_drawing(folder: Path, stem: str) -> np.ndarray | None:
    """RGB uint8 [H,W,3] of what was predicted for `stem`: class colours of a mask, else the drawing; None where a
    prediction cannot be drawn (features).

    Raises:
        UserError: the folder has no result of that name.
    """
    for name in (f"{stem}.png", f"{stem}_overlay.jpg", f"{stem}.jpg"):
        if (folder / name).is_file():
            return np.asarray(Image.open(folder / name).convert("RGB"))
    if (folder / f"{stem}.npz").is_file():
        return None
    raise UserError(f"{folder}: no prediction for '{stem}'; run deploy/python/infer.py with --save_dir {folder} first")


def row(panels: list[tuple[str, np.ndarray]], height: int | None = None) -> Image.Image:
    """Panels (caption, RGB uint8 [H,W,3]) next to each other on white, all scaled to one height."""
    height = height or panels[0][1].shape[0]
    pictures = []
    for _, array in panels:
        width = max(1, round(array.shape[1] * height / array.shape[0]))
        pictures.append(Image.fromarray(array).resize((width, height), Image.Resampling.BILINEAR))
    sheet = Image.new("RGB", (sum(p.width + GAP for p in pictures) - GAP, height + CAPTION), "white")
    pen, left = ImageDraw.Draw(sheet), 0
    for (caption, _), picture in zip(panels, pictures):
        pen.text((left + 2, 3), caption, fill="black")
        sheet.paste(picture, (left, CAPTION))
        left += picture.width + GAP
    return sheet


def sheets(dataset: Dataset, folder: Path, limit: int, height: int | None = None) -> Iterator[tuple[str, Image.Image]]:
    """(stem, picture) of the first `limit` images: each with its labels and with its prediction in `folder`."""
    for i in range(min(limit, len(dataset))):
        sample, stem = dataset[i], stem_of(dataset, i)
        panels = [("image", sample["image"])]
        label = sample.get("label")
        if isinstance(label, np.ndarray) and label.ndim == 2:
            panels.append(("labels", drawing.colourise(label, dataset.palette)))
        predicted = read_drawing(folder, stem)
        if predicted is None:
            continue
        panels.append(("prediction", predicted))
        yield stem, row(panels, height)


def stack(pictures: list[Image.Image]) -> Image.Image:
    """Pictures below each other on white."""
    sheet = Image.new("RGB", (max(p.width for p in pictures), sum(p.height for p in pictures)), "white")
    top = 0
    for picture in pictures:
        sheet.paste(picture, (0, top))
        top += picture.height
    return sheet


def command_line() -> argparse.ArgumentParser:
    """The command line of this tool."""
    parser = argparse.ArgumentParser(description="Draw predictions beside their inputs.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb in ("list", "beside"):
        sub = verbs.add_parser(verb)
        sub.add_argument("--config", "-c", required=True, help="the recipe; of a run, its config.yml")
        sub.add_argument("--limit", type=int, default=8, help="at most so many images")
        if verb == "list":
            sub.add_argument("--output", type=Path, required=True, help="the text file to write")
        else:
            sub.add_argument("--predictions", type=Path, required=True, help="folder that infer.py wrote into")
            sub.add_argument("--sheet", type=Path, help="write all of them into this one picture instead")
            sub.add_argument("--height", type=int, help="height of the panels in pixels; default: the image's")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Returns the exit status."""
    args = command_line().parse_args(argv)
    try:
        dataset = validation(args.config)
        if args.verb == "list":
            print(f"{args.output}: {write_list(dataset, args.output, args.limit)} images")
        else:
            drawn = dict(sheets(dataset, args.predictions, args.limit, args.height))
            if not drawn:
                print(f"{args.predictions}: features, of which there is no picture")
            files = {args.predictions / f"{stem}_beside.png": picture for stem, picture in drawn.items()}
            if args.sheet and drawn:
                files = {args.sheet: stack(list(drawn.values()))}
            for file, picture in files.items():
                picture.save(file)
                print(file)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
