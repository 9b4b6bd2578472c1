"""Pictures of what a CAE v2 run has learnt: image, visible patches, similarity to one patch in the features of the
teacher and in the predicted ones, and their agreement.

    python tools/similarity.py -c configs/cae_v2/cae_v2_fashion_mini.yml --run output/cae_v2_fashion_mini --images 8

reads `method.pdparams` of the run's `latest` checkpoint (or of --checkpoint), draws masks from the recipe's seed, and
writes `<run>/similarity/<n>_similarity.png`; with --vdl the same pictures into `<run>/vdl`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def command_line() -> argparse.ArgumentParser:
    """The command line of this tool."""
    parser = argparse.ArgumentParser(description="Draw similarity maps of a masked-image model.")
    parser.add_argument("-c", "--config", required=True, help="recipe whose method is cae_v2")
    parser.add_argument("--run", type=Path, help="its run folder; default: output/<name of the recipe>")
    parser.add_argument("--checkpoint", default="latest", help="folder of the run to read")
    parser.add_argument("--images", type=int, default=8, help="how many of the validation images")
    parser.add_argument("--size", type=int, default=224, help="pixels of each picture")
    parser.add_argument("--vdl", action="store_true", help="write them to VisualDL too")
    parser.add_argument("-o", "--override", nargs="*", default=[], help="key=value of the recipe")
    return parser


def draw(args: argparse.Namespace) -> list[Path]:
    """Write the pictures; returns their paths.

    Raises:
        UserError: the recipe's method gives no such pictures, or the checkpoint is another recipe's.
    """
    import json

    from ppvision.config import build, load
    from ppvision.data import build_transforms
    from ppvision.data.collate import collate
    from ppvision.data.device import to_device
    from ppvision.engine.run import build_data, build_model, statistics
    from ppvision.errors import UserError
    from ppvision.models.weights import read
    from ppvision.predict import similarity

    cfg = load(args.config, args.override)
    run = args.run or Path("output") / cfg.name
    net, _ = build_model(cfg, starting_weights=False)
    method = build("method", cfg.method, model=net)
    if not hasattr(method, "inspect"):
        raise UserError(f"{args.config}: method '{cfg.method.type}' has no features to compare")
    method.mean, method.std = statistics(cfg)
    saved, own = read(run / args.checkpoint / "method.pdparams"), method.trained_state()
    wrong = [k for k in own if k not in saved or tuple(saved[k].shape) != tuple(own[k].shape)]
    if wrong:
        raise UserError(f"{run / args.checkpoint}: does not fit {args.config} ({', '.join(wrong[:5])})")
    for key, tensor in own.items():
        tensor.set_value(saved[key])
    method.eval()
    dataset, transform = build_data(cfg, "val"), build_transforms(cfg.data.val.transforms)
    rng = np.random.default_rng(cfg.train.seed)
    chosen = sorted(rng.choice(len(dataset), min(args.images, len(dataset)), replace=False).tolist())
    batch = collate([transform(dataset[i], rng) for i in chosen])
    method.begin(0, cfg.train.seed, 0)
    found = method.inspect(method.prepare(to_device(batch)))
    panels = []
    for i in range(len(chosen)):
        hidden = np.flatnonzero(found["masked"][i])
        energy = np.abs(batch["image"][i].astype(np.float32) - batch["image"][i].mean()).mean(-1)
        side = round(found["masked"].shape[1] ** 0.5)
        cells = energy[: energy.shape[0] // side * side, : energy.shape[1] // side * side]
        cells = cells.reshape(side, cells.shape[0] // side, side, cells.shape[1] // side).mean((1, 3)).flatten()
        query = int(hidden[cells[hidden].argmax()])  # a hidden patch with something in it
        panels.append(
            similarity.panel(
                batch["image"][i], found["masked"][i], found["target"][i], found["output"][i], query, args.size
            )
        )
    names = [str(i) for i in chosen]
    if args.vdl:
        step = json.loads((run / args.checkpoint / "state.json").read_text())["step"]
        similarity.add_to_visualdl(run / "vdl", panels, names, step)
    return similarity.write(run / "similarity", panels, names)


def main(argv: list[str] | None = None) -> int:
    """Exit status."""
    from ppvision.errors import UserError

    try:
        for path in draw(command_line().parse_args(argv)):
            print(path)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.status
    return 0


if __name__ == "__main__":
    sys.exit(main())
