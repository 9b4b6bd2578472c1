"""Mistakes on the disk: damaged pictures, labels, lists, weights and checkpoints, each made in a `Case`."""

from __future__ import annotations

import hashlib
import os
import shutil
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
from cases import Case
from recipe_tables import NAME, TRAIN, VAL

from ppvision.engine import checkpoint


def sample_of(case: Case) -> tuple[Path, str, Path, Path]:
    """(root, split, image, label) of a random sample of a copied data set."""
    root = case.copy_data()
    split = case.pick(["train", "train", "val"])
    i = int(case.rng.integers(TRAIN if split == "train" else VAL))
    return root, split, root / f"{split}{i}.png", root / f"{split}{i}_label.png"


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, colour: int, packed: bytes) -> bytes:
    """A PNG whose container is right, whatever its pixels are."""
    head = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", head) + png_chunk(b"IDAT", packed) + png_chunk(b"IEND", b"")


def damaged_picture(case: Case) -> None:
    """An image or a label that cannot be read."""
    _, _, image, label = sample_of(case)
    path = case.pick([image, label])
    whole = path.read_bytes()
    how = case.pick(
        ["truncated", "truncated", "garbled", "empty", "a web page", "a folder", "a loop of links", "a pipe", "gone"]
        + ["half its pixels", "broken pixels", "a huge header", "text", "a cut JPEG"]
    )
    path.unlink()
    if how == "truncated":
        path.write_bytes(whole[: int(len(whole) * case.rng.uniform(0.05, 0.98))])
    elif how == "garbled":
        start = whole.index(b"IDAT") + 4
        cut = int(case.rng.integers(start, max(start + 1, len(whole) - 40)))
        path.write_bytes(whole[:cut] + bytes(b ^ 0x5A for b in whole[cut : cut + 12]) + whole[cut + 12 :])
    elif how == "empty":
        path.touch()
    elif how == "a web page":
        path.write_text("<!DOCTYPE html><html><body>404</body></html>")
    elif how == "a folder":
        path.mkdir()
    elif how == "a loop of links":
        path.symlink_to(path.name)
    elif how == "a pipe":
        os.mkfifo(path)
    elif how == "half its pixels":
        colour, channels = (2, 3) if path == image else (0, 1)
        rows = np.zeros((48, 1 + 64 * channels), np.uint8).tobytes()
        path.write_bytes(png(64, 48, colour, zlib.compress(rows[: len(rows) // 2])))
    elif how == "broken pixels":
        path.write_bytes(png(64, 48, 2 if path == image else 0, b"\x78\x9c" + bytes(200)))
    elif how == "a huge header":
        path.write_bytes(png(100_000, 100_000, 0, zlib.compress(bytes(1000))))
    elif how == "text":
        path.write_text("not a picture\n")
    elif how == "a cut JPEG":
        jpeg = cv2.imencode(".jpg", cv2.imdecode(np.frombuffer(whole, np.uint8), cv2.IMREAD_COLOR))[1].tobytes()
        path.write_bytes(jpeg[: len(jpeg) * 2 // 3])
    case.words, case.what = (path.name,), f"{path.name} is {how}"


def wrong_label(case: Case) -> None:
    """A label that can be read and cannot be right."""
    _, _, image, path = sample_of(case)
    mask = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    how = case.pick(["of another size", "turned", "out of range", "out of range", "16 bits", "in colour", "the image"])
    if how == "of another size":
        mask = mask[: case.pick([47, 40, 1])]
    elif how == "turned":
        mask = mask.T.copy()
    elif how == "out of range":
        mask[int(case.rng.integers(48)), int(case.rng.integers(64))] = case.pick([3, 4, 100, 254])
    elif how == "16 bits":
        mask = mask.astype(np.uint16)
        mask[0, 0] = case.pick([3, 256, 1000, 65535])
    elif how == "in colour":
        mask = cv2.applyColorMap(mask * 80, cv2.COLORMAP_JET)
    else:
        mask = cv2.imread(str(image))
    cv2.imwrite(str(path), mask)
    case.words, case.what = (path.name,), f"{path.name} is {how}"


def wrong_list(case: Case) -> None:
    """A list of samples that cannot be read."""
    root, split, image, label = sample_of(case)
    path = root / f"{split}.txt"
    lines = path.read_text().splitlines()
    i = int(case.rng.integers(len(lines)))
    how = case.pick(
        ["one column", "three columns", "commas", "columns exchanged", "missing", "empty", "blank", "a folder"]
        + ["not UTF-8", "a name that is not there", "UTF-16", "too short"]
    )
    case.words = (path.name,)
    if how in ("one column", "three columns", "commas", "columns exchanged", "a name that is not there"):
        lines[i] = {
            "one column": image.name,
            "three columns": f"{image.name} {label.name} extra",
            "commas": f"{image.name},{label.name}",
            "columns exchanged": f"{label.name} {image.name}",
            "a name that is not there": f"{image.name} nowhere.png",
        }[how]
        path.write_text("\n".join(lines) + "\n")
    elif how == "too short":
        path = root / "train.txt"
        path.write_text(path.read_text().splitlines()[0] + "\n")
        case.words = ("batch_size", path.name)
    else:
        path.unlink()
        if how == "empty":
            path.touch()
        elif how == "blank":
            path.write_text("\n \n\n")
        elif how == "a folder":
            path.mkdir()
        elif how == "not UTF-8":
            lines[i] = f"stra\udcdfe.png {label.name}"
            path.write_text("\n".join(lines) + "\n", errors="surrogateescape")
        elif how == "UTF-16":
            path.write_text("\n".join(lines) + "\n", "utf-16")
        case.words = (path.name, f"split '{split}'") if how in ("empty", "blank") else (path.name,)
    case.what = f"{path.name}: {how}"


def wrong_root(case: Case) -> None:
    root = case.copy_data()
    case.what = case.pick(["absent", "a file", "the folder above", "an empty folder"])
    case.untouched = True
    if case.what == "absent":
        shutil.rmtree(root)
    elif case.what == "a file":
        shutil.rmtree(root)
        root.write_text("")
    elif case.what == "an empty folder":
        shutil.rmtree(root)
        root.mkdir()
    else:
        root = case.folder
        case.spec["data"]["root"] = str(root)
    case.words, case.what = ("data.root", str(root)), f"data.root is {case.what}"


def wrong_classes(case: Case) -> None:
    root = case.copy_data()
    names = root / "labels.txt"
    case.untouched = True
    case.what = case.pick(["num_classes", "one name more", "a name twice", "not UTF-8", "empty", "a folder"])
    case.words = (names.name, "num_classes")
    if case.what == "num_classes":
        case.spec["data"]["train"]["num_classes"] = case.pick([2, 5, 0, 256])
        case.words = ("num_classes",)
    elif case.what == "one name more":
        names.write_text("ground\ngreen\nred\nblue\n")
        case.words = ("num_classes",)
    elif case.what == "a name twice":
        names.write_text("ground\ngreen\nground\n")
    elif case.what == "not UTF-8":
        names.write_bytes(b"ground\ngr\xfcn\nred\n")
    elif case.what == "empty":
        names.write_text("")
    else:
        names.unlink()
        names.mkdir()
    case.what = f"labels.txt: {case.what}"


def damaged(case: Case, path: Path) -> str:
    """Damage a weight file in place; how."""
    whole = path.read_bytes()
    how = case.pick(["cut", "cut at the end", "empty", "a web page", "random bytes", "a folder", "hostile", "gone"])
    path.unlink()
    if how == "cut":
        path.write_bytes(whole[: int(len(whole) * case.rng.uniform(0.02, 0.98))])
    elif how == "cut at the end":
        path.write_bytes(whole[:-1])
    elif how == "empty":
        path.touch()
    elif how == "a web page":
        path.write_text("<!DOCTYPE html><html><body>404</body></html>")
    elif how == "random bytes":
        path.write_bytes(b"\x93" + case.rng.bytes(5000))
    elif how == "a folder":
        path.mkdir()
    elif how == "hostile":
        path.write_bytes(b"\x80\x02cos\nsystem\nX\x05\x00\x00\x00true \x85R.")
    return how


def wrong_weights(case: Case) -> None:
    """`model.weights` that cannot be read or do not belong to the network."""
    path = case.folder / "start.pdparams"
    shutil.copyfile(case.stock.run / "latest" / "model.pdparams", path)
    if case.rng.random() < 0.25:
        shutil.copyfile(case.stock.folder / "other.pdparams", path)
        how = "of another network"
    else:
        how = damaged(case, path)
    if case.rng.random() < 0.5:
        case.spec["model"]["weights"] = str(path)
    else:
        case.flags = ["--model_path", str(path)]
    case.words, case.what = (path.name,), f"starting weights: {how}"


def wrong_checkpoint(case: Case) -> None:
    """`--resume` from a run whose only checkpoint is damaged."""
    run = case.folder / "earlier"
    shutil.copytree(case.stock.run, run, symlinks=True)
    (folder,) = [run / f"iter_{step}" for step in checkpoint.steps(run)]
    name = case.pick([p.name for p in folder.iterdir() if p.name not in ("config.yml", checkpoint.SUMS)])
    path = folder / name
    how = case.pick(["damaged", "damaged", "one bit", "no sums", "empty sums", "consistent sums"])
    if how == "one bit":
        whole = bytearray(path.read_bytes())
        whole[int(case.rng.integers(len(whole)))] ^= 1 << int(case.rng.integers(8))
        path.write_bytes(whole)
    elif how == "no sums":
        (folder / checkpoint.SUMS).unlink()
    else:
        path = case.pick([folder / "state.json", folder / "method.pdparams", folder / "optimizer.pdopt"])
        cut = path.read_bytes()[:-20]
        if how == "damaged":
            how = damaged(case, path)
        else:
            path.write_bytes(cut)
            if how == "empty sums":
                (folder / checkpoint.SUMS).write_text("")
            else:
                digest = hashlib.sha256(cut).hexdigest()
                lines = (folder / checkpoint.SUMS).read_text().splitlines()
                lines = [f"{digest}  {path.name}" if line.endswith(f"  {path.name}") else line for line in lines]
                (folder / checkpoint.SUMS).write_text("\n".join(lines) + "\n")
    where = case.pick([str(run), str(folder), "auto"])
    if where == "auto":
        case.flags = ["--save_dir", str(run), "--resume"]
    else:
        case.flags = ["--resume", where]
    case.guarded = run
    case.words, case.what = (run.name,), f"--resume {Path(where).name}, {path.name}: {how}"


def foreign_checkpoint(case: Case) -> None:
    """`--resume` from a run of another recipe, or from where none is."""
    run = case.folder / "earlier"
    shutil.copytree(case.stock.run, run, symlinks=True)
    case.flags, case.guarded, case.words = ["--resume", str(run)], run, (run.name,)
    case.what = case.pick(["seed", "heads", "optimizer", "model", "empty folder", "a file", "weights only"])
    if case.what == "seed":
        case.spec["train"]["seed"] = 4
    elif case.what == "heads":
        case.spec["method"]["aux"] = []
        del case.spec["optimizer"]["lr_mult"]
    elif case.what == "optimizer":
        case.spec["optimizer"] = {"type": "momentum", "lr": 0.01}
    elif case.what == "model":
        case.spec["model"]["type"] = "uhrnet_debug"
        case.spec["method"]["aux"] = []
        del case.spec["optimizer"]["lr_mult"]
    elif case.what == "empty folder":
        shutil.rmtree(run)
        run.mkdir()
    elif case.what == "a file":
        case.flags = ["--resume", str(case.recipe)]
        case.words = (NAME,)
    else:
        for path in [*run.glob("iter_*/*.json"), *run.glob("iter_*/SHA256SUMS")]:
            path.unlink()
    case.what = f"--resume from a run with another {case.what}"


def runaway(case: Case) -> None:
    """A rate that no network survives: the run ends itself, with status 1."""
    case.spec["optimizer"]["lr"] = 1.0e30
    case.spec["schedule"] = {"type": "constant"}
    case.spec["train"] |= {"clip_norm": None, "iters": 8, "save_interval": 8}
    case.spec["eval"]["interval"] = 8
    case.statuses, case.untouched = (1,), False
    case.words, case.what = ("lr",), "optimizer.lr is 1e30"
