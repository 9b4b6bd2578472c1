"""What a row of the zoo says. Importing this imports no Paddle."""

from __future__ import annotations

from dataclasses import dataclass, field

from ppvision.models.inputs import IMAGE, Input

__all__ = ["CLIP", "HALF", "IMAGENET", "Entry"]

IMAGENET = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
HALF = ((127.5, 127.5, 127.5), (127.5, 127.5, 127.5))
CLIP = (
    (0.48145466 * 255, 0.4578275 * 255, 0.40821073 * 255),
    (0.26862954 * 255, 0.26130258 * 255, 0.27577711 * 255),
)


@dataclass(frozen=True)
class Entry:
    """One row of the zoo.

    Attributes:
        network: "module:class".
        variant: a row of the module's table `VARIANTS`: arguments of the class.
        task: "segmentation", …: which `predict.Task` reads the outputs.
        example: height and width that tests and exports use.
        inputs: what `forward` takes, by argument name, in its order.
        mean_std: per channel, on the 0..255 scale, RGB; travels with the weights and ends inside the exported graph.
        weights: where the published weights are: URL, or URL#sha256 once somebody has verified the file.
        license: licence of those weights.
        published: figure -> (value, source).
    """

    network: str
    variant: str
    task: str
    example: tuple[int, int]
    inputs: dict[str, Input] = field(default_factory=lambda: {"image": IMAGE})
    mean_std: tuple[tuple[float, ...], tuple[float, ...]] = IMAGENET
    weights: str | None = None
    license: str | None = None
    published: dict[str, tuple[float, str]] = field(default_factory=dict)
