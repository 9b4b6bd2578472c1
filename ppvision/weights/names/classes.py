"""Which classes of other class heads are COCO's 80: of COCO's own 91 category ids, and of Objects365, with whose
weights a detector for COCO starts.

Data:     S. Shao et al., "Objects365", ICCV 2019, the 365 classes of version 2, numbered from 0 in the order of their
          category ids; COCO's 80 classes likewise.
Source:   the map that LW-DETR publishes (`obj365_to_coco_model.py`). Its heads keep a class 0 that means nothing, so it
          adds 1 to every number; ours have no such class.
"""

from __future__ import annotations

from typing import Any

# Category ids up to 90, of which these are in use: class k of ours is id COCO_IDS[k].
COCO_IDS = tuple(i for i in range(1, 91) if i not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83))
NUM_OBJECTS365 = 365
# Entry k: the Objects365 class that is COCO's class k.
COCO_CLASSES: tuple[int, ...] = (
    *(0, 46, 5, 58, 114, 55, 116, 65, 21, 40, 176, 127, 249, 24, 56, 139, 92, 78, 99, 96),
    *(144, 295, 178, 180, 38, 39, 13, 43, 120, 219, 148, 173, 165, 154, 137, 113, 145, 146, 204, 8),
    *(35, 10, 88, 84, 93, 26, 112, 82, 265, 104, 141, 152, 234, 143, 150, 97, 2, 50, 25, 75),
    *(98, 153, 37, 73, 115, 132, 106, 61, 163, 134, 277, 81, 133, 18, 94, 30, 169, 70, 328, 226),
)


def coco_rows(weight_365: Any, axis: int | None = None) -> Any:
    """The part of a weight that belongs to COCO's 80 classes, in their order.

    Args:
        weight_365: numpy array or Paddle tensor with one axis of 365 classes: weight ([in, 365] in Paddle) or bias
            ([365]) of a class head, or a table of class embeddings ([365, d]).
        axis: which axis; default: the one of length 365.

    Returns:
        The same kind of object, 80 long on that axis.

    Raises:
        ValueError: no axis of 365 classes, or more than one.
    """
    shape = tuple(weight_365.shape)
    axes = [i for i, n in enumerate(shape) if n == NUM_OBJECTS365]
    if axis is None and len(axes) == 1:
        axis = axes[0]
    if axis is None or shape[axis] != NUM_OBJECTS365:
        raise ValueError(f"a weight of shape {list(shape)} has no axis that is known to be Objects365's 365 classes")
    chosen: list[Any] = [slice(None)] * len(shape)
    chosen[axis] = list(COCO_CLASSES)
    return weight_365[tuple(chosen)]
