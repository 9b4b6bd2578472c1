"""Why an update was skipped, and the batch that did it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from paddle import Tensor


class Fault(Exception):
    """A loss, a statistic or a gradient norm that is not finite. The Trainer raises it and undoes the phase.

    Attributes:
        phase: where it was found.
        what: it is, in words.
        terms: loss terms of the phase, as far as they had been computed.
        overflow: the loss scale was too high (fp16 only), which is no fault of the data.
        elsewhere: another rank's data.
    """

    def __init__(
        self, phase: str, what: str, terms: Mapping[str, Tensor], *, overflow: bool = False, elsewhere: bool = False
    ):
        super().__init__(f"phase '{phase}': {what}")
        self.phase = phase
        self.what = what
        self.overflow = overflow
        self.elsewhere = elsewhere
        self.terms = {k: float(v.detach().astype("float32").item()) for k, v in terms.items()}


def keep_batch(path: Path, micro_batches: Sequence[Mapping[str, Any]]) -> None:
    """Write the batch of a skipped update for inspection, the first one only: `<micro-batch>/<key>` -> array."""
    if path.exists():
        return
    arrays: dict[str, np.ndarray] = {}
    for i, batch in enumerate(micro_batches):
        arrays |= {f"{i}/{k}": v for k, v in batch.items() if isinstance(v, np.ndarray) and v.dtype != object}
        arrays[f"{i}/name"] = np.array([str(name) for name in batch.get("name", [])])
    np.savez_compressed(path, **arrays)
