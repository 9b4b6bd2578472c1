"""Does what was exported say what the network says? Numbers, never exit statuses.

Each row is one backend, precision and shape, against the network in eager mode on the CPU:
- *max* and *mean error* of the raw outputs, relative to the largest magnitude of the reference output. A second graph,
  exported with output_op none, gives them; it differs from the product only in its last operator.
- *agreement* of the product's decisions, as the task compares them (`Task.agreement`). Two scores that are closer than
  the tolerance have no right order in floating point, and on noise with untrained weights there are many: the task
  allows for them. `agreement_exact`, without that allowance, is reported beside it.
- *latency*: median of the product graph, one call at a time, after the calls that were compared.

A network that chooses its queries by rank (two-stage detectors) ranks near-equal tokens otherwise in every backend, and
every query behind such a pair then stands for something else. Where a backend's choice is one that the reference's own
scores allow within the tolerance, it is compared with the network that is told to choose alike (`settled`). Likewise a
network that suppresses duplicates: a pair that overlaps by just the limit may count for duplicates or not.

Pictures of the validation set are used when there is one. Otherwise seeded smooth blobs with grain: white noise alone
drives networks into saturated, untypical activations. Where the transforms pad, one more case is what they make of the
first pictures, mask and all, since that is what a deployed graph is given.
GPU rows are reported but not judged: TF32 convolutions, on by default there, differ by more than any sensible
tolerance.
"""

from __future__ import annotations

import json
import logging
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ppvision.device import cuda_usable
from ppvision.errors import UserError
from ppvision.predict.runtime import Runtime, open_session
from ppvision.predict.tasks.base import Task

logger = logging.getLogger("ppvision")

Arrays = Mapping[str, np.ndarray]
Net = Callable[..., Arrays]


@dataclass
class Row:
    """One line of the table; errors are relative to the reference's magnitude, latency in milliseconds.

    `shape` is that of the picture, else of the first input; `inputs` has all of them, by the names of the graph.
    """

    backend: str
    precision: str
    shape: list[int]
    max_error: float
    mean_error: float
    agreement: float | None
    agreement_exact: float | None
    latency_ms: float | None
    judged: bool = True
    fault: str | None = None
    inputs: dict[str, list[int]] = field(default_factory=dict)
    padded: bool = False


@dataclass(frozen=True)
class Graph:
    """Files of one exported graph; `onnx` may be None."""

    model: Path
    params: Path
    onnx: Path | None = None


def shapes_for(picture: Sequence[int], example: tuple[int, int]) -> list[list[int]]:
    """The shapes to compare at: the example (at most 512 a side), and an odd one with two samples where the graph
    leaves them free.

    Args:
        picture: [N,C,H,W], -1 is free.
        example: height and width.
    """
    batch, channels, height, width = picture
    base_h, base_w = (min(side, 512) for side in example)
    first = [max(batch, 1), channels, height if height > 0 else base_h, width if width > 0 else base_w]
    second = [
        batch if batch > 0 else 2,
        channels,
        height if height > 0 else base_h * 3 // 8 | 1,
        width if width > 0 else base_w * 5 // 8 | 1,
    ]
    return [first] if first == second else [first, second]


def pictures(shape: Sequence[int], given: Sequence[np.ndarray] = ()) -> np.ndarray:
    """float32 [B,3,H,W] in 0..255 for a comparison, from `given` RGB uint8 images or seeded; the same at every call."""
    import cv2

    batch, channels, height, width = shape
    if given:
        chosen = [
            cv2.resize(given[i % len(given)], (width, height), interpolation=cv2.INTER_AREA) for i in range(batch)
        ]
        return np.stack(chosen).transpose(0, 3, 1, 2).astype(np.float32)
    rng = np.random.default_rng(0)
    coarse = rng.uniform(0, 255, (batch, max(height // 32, 2), max(width // 32, 2), channels)).astype(np.float32)
    smooth = np.stack([cv2.resize(c, (width, height), interpolation=cv2.INTER_CUBIC) for c in coarse])
    grain = rng.normal(0, 12, smooth.shape)
    return np.rint(np.clip(smooth + grain, 0, 255)).transpose(0, 3, 1, 2).astype(np.float32)


def relative_errors(reference: Arrays, other: Arrays) -> tuple[float, float]:
    """(largest, mean) |difference| divided by the reference's largest magnitude, the worst over the outputs; inf for a
    wrong shape or a value that is not finite."""
    if set(reference) != set(other):
        return float("inf"), float("inf")
    worst, mean = 0.0, 0.0
    for name, a in reference.items():
        b = other[name]
        if a.shape != b.shape or not np.isfinite(b).all():
            return float("inf"), float("inf")
        if a.size:
            difference = np.abs(a.astype(np.float64) - b.astype(np.float64))
            scale = float(np.abs(a).max()) or 1.0
            worst, mean = max(worst, float(difference.max()) / scale), max(mean, float(difference.mean()) / scale)
    return worst, mean


def settled(
    reference: Net, inputs: Arrays, expected: Arrays, outputs: Arrays, tolerance: float
) -> tuple[Arrays, Arrays]:
    """What to compare of a network that chooses by rank: (reference, backend), logits and boxes each.

    Args:
        reference: the network; its second argument, where given, is what to choose, its third what to keep of it.
        inputs: its inputs.
        expected: its own logits, boxes, choice [B,N] and scores [B,S]; of a network that suppresses duplicates also
            what it keeps [B,N] and how far each overlaps a better one beyond the limit, excess [B,N,N].
        outputs: those of the backend.
        tolerance: of scores, relative to the largest of the chosen ones; of overlaps.
    """
    chosen = expected["chosen"]
    scores = expected["scores"]
    theirs = outputs["chosen"]
    if theirs.shape != chosen.shape:
        return _compared(expected), _compared(outputs)
    fixed = expected
    if not np.array_equal(theirs, chosen):
        if theirs.min() < 0 or theirs.max() >= scores.shape[1] or any(len(set(r)) < len(r) for r in theirs.tolist()):
            return _compared(expected), _compared(outputs)
        ours, others = (np.take_along_axis(scores, index, axis=1) for index in (chosen, theirs))
        margin = 2 * tolerance * float(np.abs(ours).max())
        if (np.diff(others, axis=1) > margin).any() or (others < ours[:, -1:] - margin).any():
            return _compared(expected), _compared(outputs)
        fixed = reference(inputs, theirs)
    if "kept" in fixed and not np.array_equal(fixed["kept"], outputs["kept"]):
        if _may_keep(outputs["kept"], fixed["excess"], 2 * tolerance):
            fixed = reference(inputs, theirs, outputs["kept"])
    return _compared(fixed), _compared(outputs)


def _compared(outputs: Arrays) -> Arrays:
    return {name: outputs[name] for name in ("logits", "boxes")}


def _may_keep(kept: np.ndarray, excess: np.ndarray, margin: float) -> bool:
    """Whether greedy suppression could have kept these: nothing that clearly overlaps one that stays, and dropped
    nothing that clearly does not.

    Args:
        kept: [B,N], 1 or 0.
        excess: [B,N,N], overlap of i with the better j beyond the limit; -1 where j does not concern i.
        margin: of overlaps.
    """
    stays = kept[:, None, :] > 0.5
    clearly, perhaps = ((stays & (excess > limit)).any(-1) for limit in (margin, -margin))
    return bool(np.where(kept > 0.5, ~clearly, perhaps).all())


def run(
    reference: Net,
    product_reference: Net,
    raw: Graph,
    product: Graph,
    cases: Sequence[Arrays],
    *,
    task: Task,
    tolerance: float,
    chooses: bool = False,
) -> list[Row]:
    """Compare every backend that runs here on every case.

    Args:
        reference: the network in eager mode with the plain ending: inputs by the names of the graph -> outputs by name.
        product_reference: the same as exported.
        raw: graph with the plain ending.
        product: graph that is shipped; the same files as `raw` when it decides nothing.
        cases: inputs by the names of the graph.
        task: compares decisions.
        tolerance: for the allowance of ties.
        chooses: `reference` and `raw` also give what was chosen by rank, see `settled`.

    Raises:
        UserError: the reference itself is not finite.
    """
    expected = [reference(case) for case in cases]
    if not all(np.isfinite(output).all() for outputs in expected for output in outputs.values()):
        raise UserError("export: the network gives NaN or infinity in eager mode; check the weights")
    rows = [
        _row("eager", "fp32", case, (0.0, 0.0), task.agreement(own, product_reference(case), tolerance))
        for case, own in zip(cases, expected)
    ]
    for row, case in zip(rows, cases):
        row.latency_ms = _latency(product_reference, case)
    for name, backend, device, runtime, judged in _variants(product):
        try:
            sessions = [
                open_session(backend, device, runtime, model=graph.model, params=graph.params, onnx=graph.onnx)
                for graph in ([raw] if raw == product else [raw, product])
            ]
        except Exception as error:
            # Whatever a backend throws while it loads a graph is a fault of that backend, to be shown in the table.
            rows.append(_faulty(name, runtime.precision, cases[0], judged, error))
            continue
        for case, own in zip(cases, expected):
            try:
                outputs, shipped = sessions[0](case), sessions[-1](case)
                latency = _latency(sessions[-1], case)
            except Exception as error:
                rows.append(_faulty(name, runtime.precision, case, judged, error))
                continue
            target, outputs = settled(reference, case, own, outputs, tolerance) if chooses else (own, outputs)
            agreed = task.agreement(target, shipped, tolerance)
            errors = relative_errors(target, outputs)
            rows.append(_row(name, runtime.precision, case, errors, agreed, latency, judged))
    return rows


def _row(
    backend: str,
    precision: str,
    case: Arrays,
    errors: tuple[float, float],
    agreed: tuple[float, float] | None,
    latency: float | None = None,
    judged: bool = True,
    fault: str | None = None,
) -> Row:
    shapes = {name: list(array.shape) for name, array in case.items()}
    padded = any(array.dtype == bool and not array.all() for array in case.values())
    first = shapes.get("x") or next(iter(shapes.values()))
    return Row(backend, precision, first, *errors, *(agreed or (None, None)), latency, judged, fault, shapes, padded)


def _variants(graph: Graph) -> list[tuple[str, str, str, Runtime, bool]]:
    variants = [
        ("paddle", "paddle", "cpu", Runtime(mkldnn=False), True),
        ("paddle-onednn", "paddle", "cpu", Runtime(mkldnn=True), True),
    ]
    if graph.onnx is not None:
        variants.append(("onnx", "onnx", "cpu", Runtime(), True))
    if cuda_usable():
        variants.append(("paddle-gpu", "paddle", "gpu", Runtime(), False))
    return variants


def _faulty(name: str, precision: str, case: Arrays, judged: bool, error: Exception) -> Row:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if "rror" in line] or lines or [""]
    fault = f"{type(error).__name__}: {telling[-1][:200]}"
    return _row(name, precision, case, (float("inf"), float("inf")), None, None, judged, fault)


def _latency(session: Net, inputs: Arrays, calls: int = 5, budget: float = 2.0) -> float:
    """Median milliseconds of up to `calls` calls; stops once `budget` seconds are spent."""
    times: list[float] = []
    while len(times) < calls and sum(times) < budget:
        start = time.perf_counter()
        session(inputs)
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1000


def faults(rows: Sequence[Row], tolerance: float, minimum_agreement: float) -> dict[str, str]:
    """Backend -> why it is refused, with the figure; empty when everything is within bounds."""
    found: dict[str, str] = {}
    for row in rows:
        if not row.judged or row.backend in found:
            continue
        shape = "x".join(map(str, row.shape))
        if row.fault:
            found[row.backend] = f"at {shape}: {row.fault}"
        elif not row.max_error <= tolerance:
            found[row.backend] = (
                f"error {row.max_error:.2e} at {shape}, tolerance {tolerance:.1e} of the largest output"
            )
        elif row.agreement is not None and row.agreement < minimum_agreement:
            found[row.backend] = f"{row.agreement:.2%} of decisions agree at {shape}, {minimum_agreement:.2%} required"
    return found


def table(rows: Sequence[Row]) -> str:
    """The rows as text."""
    head = ["backend", "precision", "shape", "max error", "mean error", "agreement", "exact", "ms"]
    lines = [
        [
            row.backend,
            row.precision,
            "x".join(map(str, row.shape)) + (" padded" if row.padded else ""),
            f"{row.max_error:.2e}",
            f"{row.mean_error:.2e}",
            "-" if row.agreement is None else f"{row.agreement:.4%}",
            "-" if row.agreement_exact is None else f"{row.agreement_exact:.4%}",
            "-" if row.latency_ms is None else f"{row.latency_ms:.1f}",
        ]
        for row in rows
    ]
    widths = [max(len(line[i]) for line in [head, *lines]) for i in range(len(head))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(line, widths)).rstrip() for line in [head, *lines])


def report(
    rows: Sequence[Row], refused: dict[str, str], tolerance: float, minimum_agreement: float, source: str
) -> dict[str, Any]:
    """What `parity.json` holds."""
    import paddle

    versions = {"python": platform.python_version(), "paddle": paddle.__version__, "numpy": np.__version__}
    for module in ("onnxruntime", "paddle2onnx"):
        try:
            from importlib.metadata import version

            versions[module] = version(module)
        except ImportError:
            continue
    return {
        "tolerance": tolerance,
        "agreement": minimum_agreement,
        "inputs": source,
        "threads": Runtime().threads(),
        "versions": versions,
        "refused": refused,
        "rows": [asdict(row) for row in rows],
    }


def write(path: Path, content: dict[str, Any]) -> None:
    """Write `parity.json`; infinity, which JSON does not have, becomes null."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        if isinstance(value, list):
            return [plain(item) for item in value]
        return None if isinstance(value, float) and not np.isfinite(value) else value

    path.write_text(json.dumps(plain(content), indent=1, allow_nan=False) + "\n", encoding="utf-8")
