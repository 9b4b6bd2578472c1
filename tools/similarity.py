"""Pictures of what a CAE v2 run has learnt: image, visible patches, similarity to one patch in the features of the
teacher and in the predicted ones, and their agreement.

    python tools/similarity.py -c configs/cae_v2/cae_v2_fashion_mini.yml --run output/cae_v2_fashion_mini --images 8

reads the run's `latest` checkpoint (or --checkpoint), draws each image's mask from the recipe's seed, and writes
`<run>/similarity/<n>_similarity.png`; with --vdl the same pictures into `<run>/vdl`. A run draws such pictures of the
first validation images at each of its evaluations (`<run>/pictures`).
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

    from ppvision.config import load
    from ppvision.data import build_transforms
    from ppvision.data.batch import to_device
    from ppvision.data.collate import collate
    from ppvision.engine.build import load_method, load_model
    from ppvision.errors import UserError
    from ppvision.methods.cae_v2 import CaeV2Pretraining
    from ppvision.predict.assemble import data_set
    from ppvision.predict.drawing import write_image

    cfg = load(args.config, args.override)
    run = args.run or Path("output") / cfg.name
    method = load_method(cfg, load_model(cfg, run / args.checkpoint), run / args.checkpoint)
    if not isinstance(method, CaeV2Pretraining):
        raise UserError(f"{args.config}: method '{cfg.method.type}' has no features to compare")
    dataset, transform = data_set(cfg, "val"), build_transforms(cfg.data.val.transforms)
    rng = np.random.default_rng(cfg.train.seed)
    chosen = sorted(rng.choice(len(dataset), min(args.images, len(dataset)), replace=False).tolist())
    batch = collate([transform({**dataset[i], "index": i}, rng) for i in chosen])
    panels = method.panels(to_device(batch), args.size)
    folder = run / "similarity"
    folder.mkdir(parents=True, exist_ok=True)
    files = {folder / f"{place}_similarity.png": panel for place, panel in panels.items()}
    for path, panel in files.items():
        write_image(path, panel)
    if args.vdl:
        from visualdl import LogWriter

        step = json.loads((run / args.checkpoint / "state.json").read_text())["step"]
        with LogWriter(logdir=str(run / "vdl")) as writer:
            for place, panel in panels.items():
                writer.add_image(tag=f"similarity/{place}", img=panel, step=step)
    return list(files)


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
