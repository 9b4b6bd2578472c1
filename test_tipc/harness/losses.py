"""Losses and speeds out of training logs, by the rules of upstream's parsers."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

CONVERTERS = {"f": float, "i": int, "s": str}
# Wider than upstream's `-?\d+\.\d+`: exponents too. nan and inf are found, and refused where they are compared.
PATTERNS = {"f": r"([-+]?(?:\d+\.?\d*(?:[eE][-+]?\d+)?|nan|inf))", "i": r"([-+]?\d+)", "s": r"(.*?)"}


def extract(lines: Iterable[str], valid: str = "*", expression: str = "loss: {%f},") -> list[float | int | str]:
    """The value of `expression` in every line that holds `valid` (`*`: any line).

    Raises:
        ValueError: the expression has not exactly one of `{%f}`, `{%i}`, `{%s}`, or a line holds two matches.
    """
    kinds = re.findall(r"\{%(.)\}", expression)
    if len(kinds) != 1 or kinds[0] not in CONVERTERS:
        raise ValueError(f"'{expression}' must hold one of {{%f}}, {{%i}}, {{%s}}")
    pattern = re.compile(expression.replace("{%" + kinds[0] + "}", PATTERNS[kinds[0]]))
    found = []
    for line in lines:
        if valid != "*" and valid not in line:
            continue
        matches = pattern.findall(line.strip())
        if len(matches) > 1:
            raise ValueError(f"'{expression}' occurs {len(matches)} times in: {line.strip()}")
        found += [CONVERTERS[kinds[0]](match.strip()) for match in matches]
    return found


def compare(first: Sequence[float], second: Sequence[float], rtol: float) -> str | None:
    """What differs between two series, or None. An empty series, unequal lengths and values that are not finite
    differ."""
    if not first or not second:
        return f"no losses: {len(first)} and {len(second)} were found"
    if len(first) != len(second):
        return f"{len(first)} losses against {len(second)}"
    for i, (a, b) in enumerate(zip(first, second), 1):
        if not (math.isfinite(a) and math.isfinite(b)):
            return f"loss {i}: {a} against {b}"
        if abs(a - b) > rtol * max(abs(a), abs(b)):
            return f"loss {i}: {a} against {b}, apart by more than {rtol:g} of it"
    return None


def after_word(lines: Iterable[str], keyword: str) -> list[float]:
    """As `analysis.py` reads: a line is split at blanks, and the word after the one that equals `keyword` is a number;
    a comma at its end is dropped."""
    found = []
    for line in lines:
        words = line.split()
        for word, value in zip(words, words[1:]):
            if word == keyword:
                try:
                    found.append(float(value.rstrip(",")))
                except ValueError:
                    pass
    return found


def epoch_means(lines: Iterable[str]) -> list[dict[str, float]]:
    """As `check_loss.sh` reads `train.log`: in lines with `[Train]` and `[Avg]`, what follows the last `]` is
    `name: float` pairs separated by commas.

    Raises:
        ValueError: something else stands there.
    """
    found = []
    for line in lines:
        if "[Train]" in line and "[Avg]" in line:
            pairs = [part.split(":") for part in line.rsplit("]", 1)[1].strip().split(",")]
            if any(len(pair) != 2 for pair in pairs):
                raise ValueError(f"not `name: value, name: value` after the last ]: {line.strip()}")
            found.append({name.strip(): float(value) for name, value in pairs})
    return found


def drop_first(lines: Iterable[str], skip: int, pattern: str = r"epoch: (\d+)") -> Iterable[str]:
    """The lines without the first `skip` matching ones of each epoch.

    Raises:
        ValueError: the pattern has not exactly one group.
    """
    matcher = re.compile(pattern)
    if matcher.groups != 1:
        raise ValueError(f"'{pattern}' must have one group")
    epoch, seen = None, 0
    for line in lines:
        if match := matcher.search(line):
            epoch, seen = (match[1], 0) if match[1] != epoch else (epoch, seen + 1)
            if seen < skip:
                continue
        yield line
