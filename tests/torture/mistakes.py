"""Mistakes: what can be wrong with a recipe, a data set, a weight file, a checkpoint, and the word that must be said.

A maker changes one thing in a `Case`, which starts as a recipe that trains. Every change is a mistake by construction:
a key that no class has, a value of another type or outside its documented range, a file that is damaged.
"""

from __future__ import annotations

from collections.abc import Callable

from cases import Case
from file_mistakes import (
    damaged_picture,
    foreign_checkpoint,
    runaway,
    wrong_checkpoint,
    wrong_classes,
    wrong_label,
    wrong_list,
    wrong_root,
    wrong_weights,
)
from recipe_mistakes import (
    another_recipe,
    any_argument,
    bad_base,
    bad_command,
    bad_flag,
    broken_yaml,
    duplicated_key,
    foreign_part,
    half_of_a_pair,
    missing_key,
    out_of_range,
    out_of_range_elsewhere,
    schema_leaf,
    typo_in_a_key,
    unknown_name,
    upstream_recipe,
    wrong_type,
)

FAMILIES: dict[str, tuple[int, tuple[Callable[[Case], None], ...]]] = {  # share of all mutants, makers
    "recipe": (
        11,
        (
            typo_in_a_key,
            out_of_range,
            wrong_type,
            typo_in_a_key,
            out_of_range,
            wrong_type,
            unknown_name,
            missing_key,
            bad_flag,
            broken_yaml,
            duplicated_key,
            out_of_range,
            unknown_name,
            bad_base,
            bad_flag,
            upstream_recipe,
            half_of_a_pair,
            bad_command,
            out_of_range_elsewhere,
            schema_leaf,
            any_argument,
            out_of_range_elsewhere,
            foreign_part,
            any_argument,
            schema_leaf,
        ),
    ),
    "data": (6, (damaged_picture, wrong_label, wrong_list, damaged_picture, wrong_classes, wrong_list, wrong_root)),
    "weights": (
        3,
        (
            wrong_weights,
            wrong_checkpoint,
            foreign_checkpoint,
            another_recipe,
            wrong_checkpoint,
            wrong_weights,
            another_recipe,
            runaway,
        ),
    ),
}
