"""A list of a million samples: what its index costs, in this process and in every worker that is forked from it.

A Python list of a million paths is a million objects, over 100 MB, and every forked worker soon has a copy of its own,
because reading an object writes its reference count. The index is two arrays: it may cost little more than the text,
and a worker that reads all of it may cost next to nothing.
"""

from __future__ import annotations

import gc
import json
import multiprocessing
import subprocess
import sys
import time
from pathlib import Path

from outcome import ROOT, Outcome, Say, environment

WORKERS = 2
PER_ENTRY = 32  # bytes beside the text: two offsets and the number of the line, with room for how arrays are packed
PRIVATE = 8 << 20  # bytes a worker may add by reading every entry
NAMES = ("leftImg8bit/train/aachen/aachen_{i:07d}_000019_leftImg8bit.png", "gtFine/train/aachen/aachen_{i:07d}_ids.png")


def write_list(folder: Path, count: int) -> int:
    """A `seg_list` of so many samples; the bytes of its names."""
    folder.mkdir(parents=True)
    (folder / "labels.txt").write_text("ground\nroad\n")
    text = 0
    with (folder / "train.txt").open("w") as file:
        for i in range(count):
            line = " ".join(name.format(i=i) for name in NAMES)
            text += len(line) - 1
            file.write(line + "\n")
    return text


def private(pid: str = "self") -> tuple[int, int]:
    """Bytes that are resident, and those of them that no other process shares."""
    fields: dict[str, int] = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        key, _, value = line.partition(":")
        fields[key] = int(value.split()[0]) << 10
    return fields["Rss"], fields["Private_Clean"] + fields["Private_Dirty"]


def read_everything(dataset: object, out: object) -> None:
    """A worker that touches every entry, as an epoch does."""
    gc.freeze()
    before, wrong = private()[1], 0
    for i in range(len(dataset)):
        wrong += not dataset.images[i].endswith(f"_{i:07d}_000019_leftImg8bit.png")
        wrong += not dataset.labels[i].endswith(f"_{i:07d}_ids.png")
    out.send((private()[1] - before, wrong))


def measure(folder: Path) -> dict[str, float]:
    """Figures of a list in this process, which must have done nothing else."""
    from ppvision.data.formats.seg_list import SegList

    SegList.__init__  # noqa: B018  imported, so that its modules are not counted
    gc.collect()
    before, started = private()[0], time.monotonic()
    dataset = SegList(str(folder), "train")
    seconds = time.monotonic() - started
    gc.collect()
    resident = private()[0] - before
    started, context, added, wrong = time.monotonic(), multiprocessing.get_context("fork"), [], 0
    pipes = [context.Pipe(False) for _ in range(WORKERS)]
    workers = [context.Process(target=read_everything, args=(dataset, give)) for _, give in pipes]
    for worker in workers:
        worker.start()
    for take, _ in pipes:
        grown, faults = take.recv()
        added.append(grown)
        wrong += faults
    for worker in workers:
        worker.join()
    return {
        "entries": len(dataset),
        "resident": resident,
        "index": dataset.images.nbytes + dataset.labels.nbytes + dataset._lines.nbytes,
        "added": max(added),
        "wrong": wrong,
        "seconds": seconds,
        "reading": time.monotonic() - started,
    }


def check(found: dict[str, float], text: int) -> list[str]:
    """What is wrong with the figures of a list whose names have so many bytes."""
    allowed, broken = text + PER_ENTRY * found["entries"], []
    if found["wrong"]:
        broken.append(f"{found['wrong']} entries are not those of the list")
    for what in ("index", "resident"):
        limit = allowed if what == "index" else 1.5 * allowed + (16 << 20)
        if found[what] > limit:
            broken.append(f"{what} memory {found[what] / 2**20:.1f} MB, {limit / 2**20:.1f} MB are allowed")
    if found["added"] > PRIVATE:
        broken.append(f"a worker that read the index has {found['added'] / 2**20:.1f} MB of its own")
    return broken


def run(count: int, seed: int, folder: Path, say: Say) -> Outcome:
    """Write a list of `count` samples and measure its index in a fresh process; nothing is drawn."""
    outcome = Outcome("a list of so many samples: memory of its index, and of a worker that reads all of it", "any")
    text = write_list(folder / "data", count)
    say(f"a list of {count:,} samples, {text / 2**20:.1f} MB of names")
    command = [sys.executable, str(Path(__file__)), str(folder / "data")]
    ended = subprocess.run(command, env=environment(), cwd=ROOT, capture_output=True, text=True)
    outcome.tried = count
    if ended.returncode:
        outcome.broken.append(f"status {ended.returncode}: {ended.stderr[-300:]}")
        return outcome
    found = json.loads(ended.stdout)
    outcome.broken = check(found, text)
    outcome.metrics = {
        "MB of names": round(text / 2**20, 1),
        "MB of the index": round(found["index"] / 2**20, 1),
        "resident MB added": round(found["resident"] / 2**20, 1),
        "MB of its own in each worker": round(found["added"] / 2**20, 1),
        "workers": WORKERS,
        "seconds to read the list": round(found["seconds"], 1),
        "seconds to read every entry": round(found["reading"], 1),
    }
    return outcome


if __name__ == "__main__":
    print(json.dumps(measure(Path(sys.argv[1]))))
