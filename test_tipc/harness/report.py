"""What a run leaves for machines and for people: summary.json, junit.xml, tables."""

from __future__ import annotations

import json
import os
import platform
import re
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from .plan import Plan
from .runner import Outcome

RECORD = "results/tipc/{mode}.json"
README = "test_tipc/README.md"
MARKS = ("<!-- tipc table -->", "<!-- end of tipc table -->")


def status_of(outcomes: Sequence[Outcome]) -> int:
    """Exit status of a run: 0 all commands succeeded, 1 one failed, 3 nothing ran, 130 interrupted."""
    if any(o.status == "interrupted" for o in outcomes):
        return 130
    if any(o.bad for o in outcomes):
        return 1
    return 0 if any(o.ok for o in outcomes) else 3


def strict(status: int) -> int:
    """`TIPC_STRICT=0`: always 0, as upstream's scripts."""
    return 0 if os.environ.get("TIPC_STRICT") == "0" else status


def versions() -> dict[str, str]:
    """Of Python and of what the commands import, as installed beside this interpreter."""
    found = {"python": platform.python_version(), "machine": platform.platform(), "cpus": str(os.cpu_count())}
    for name in ("paddlepaddle", "paddlepaddle-gpu", "numpy", "paddle2onnx", "onnxruntime"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            pass
    return found


def write(plan: Plan, outcomes: Sequence[Outcome], started: float, wall_s: float) -> dict[str, Any]:
    """Write `summary.json` and `junit.xml` into the plan's folder; returns the summary."""
    count = lambda *words: sum(o.status in words for o in outcomes)
    summary = {
        "model_name": plan.recipe.model_name,
        "mode": plan.mode,
        "txt": plan.recipe.path,
        "start": time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(started)),
        "wall_s": round(wall_s, 2),
        "passed": count("passed"),
        "failed": count("failed", "timeout", "interrupted"),
        "skipped": count("skipped"),
        "steps": [_step(o) for o in outcomes],
        "versions": versions(),
    }
    folder = Path(plan.folder)
    _replace(folder / "summary.json", json.dumps(summary, indent=1) + "\n")
    _replace(folder / "junit.xml", junit([summary], {o.step.number: o.tail for o in outcomes}))
    return summary


def _step(outcome: Outcome) -> dict[str, Any]:
    step = outcome.step
    return {
        "number": step.number,
        "kind": step.kind,
        "trainer": step.trainer,
        "gpu": step.gpu,
        "precision": step.precision,
        "command": step.command,
        "log": step.log,
        "rc": outcome.rc,
        "status": outcome.status,
        "reason": outcome.reason,
        "wall_s": round(outcome.wall_s, 2),
        "cpu_s": round(outcome.cpu_s, 2),
        "metrics": outcome.metrics,
    }


def junit(summaries: Sequence[Mapping[str, Any]], tails: Mapping[int, Sequence[str]] | None = None) -> str:
    """JUnit XML: one suite per summary, one test case per step."""
    root = ElementTree.Element("testsuites")
    for summary in summaries:
        suite = ElementTree.SubElement(
            root,
            "testsuite",
            name=f"tipc.{summary['mode']}.{summary['model_name']}",
            tests=str(len(summary["steps"])),
            failures=str(summary["failed"]),
            errors="0",
            skipped=str(summary["skipped"]),
            time=str(summary["wall_s"]),
            timestamp=summary["start"],
        )
        for step in summary["steps"]:
            words = [f"{step['number']:02d}", step["kind"], step["trainer"], step["gpu"] and f"gpu {step['gpu']}"]
            case = ElementTree.SubElement(
                suite,
                "testcase",
                classname=summary["model_name"],
                name=" ".join(filter(None, words)),
                time=str(step["wall_s"]),
            )
            if step["status"] == "skipped":
                ElementTree.SubElement(case, "skipped", message=_clean(step["reason"]))
            elif step["status"] != "passed":
                failure = ElementTree.SubElement(case, "failure", message=_clean(step["reason"]), type=step["status"])
                failure.text = _clean("\n".join([step["command"], *(tails or {}).get(step["number"], ())]))
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _clean(text: str) -> str:
    """Without the characters XML cannot hold."""
    return re.sub(r"\x1b\[[0-9;]*m|[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "", text)


def _replace(path: Path, text: str) -> None:
    aside = path.with_name(f".{path.name}.tmp")
    aside.write_text(text, encoding="utf-8")
    aside.replace(path)


def table(summaries: Sequence[Mapping[str, Any]]) -> list[str]:
    """One row per chain, for a terminal and for Markdown alike."""
    rows = [
        [
            "system",
            "steps",
            "train s",
            "eval s",
            "export s",
            "infer s",
            "compare s",
            "total s",
            "CPU s",
            "figures",
            "result",
        ]
    ]
    for summary in sorted(summaries, key=lambda s: s["model_name"]):
        steps = summary["steps"]
        seconds = lambda *kinds, steps=steps: sum(s["wall_s"] for s in steps if s["kind"] in kinds)
        metrics: dict[str, float] = {}
        for step in steps:
            if step["kind"] in ("train", "eval", "benchmark"):
                metrics |= {k: v for k, v in step["metrics"].items() if k != "ips" or step["kind"] == "benchmark"}
        shown = ", ".join(f"{k} {v:.3f}" for k, v in list(metrics.items())[:2])
        bad = [f"{s['kind']} {s['status']}" for s in steps if s["status"] not in ("passed", "skipped")]
        result = ", ".join(bad) or ("passed" if summary["passed"] else "nothing ran")
        skipped = f", {summary['skipped']} skipped" if summary["skipped"] else ""
        times = [
            seconds("train", "profile", "benchmark"),
            seconds("eval"),
            seconds("export", "convert"),
            seconds("infer", "onnx_infer"),
        ]
        times += [seconds("compare", "losses"), summary["wall_s"], sum(s["cpu_s"] for s in steps)]
        rows.append(
            [summary["model_name"], str(len(steps)), *(f"{t:.0f}" for t in times), shown or "-", result + skipped]
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(row, widths)) + " |" for row in rows]
    lines.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
    return lines


def put_table(path: Path, summaries: Sequence[Mapping[str, Any]], about: str) -> None:
    """Replace the table between the marks in a Markdown file."""
    text = path.read_text(encoding="utf-8")
    before, _, rest = text.partition(MARKS[0])
    _, found, after = rest.partition(MARKS[1])
    if not found:
        raise ValueError(f"{path} has no '{MARKS[0]}' ... '{MARKS[1]}'")
    body = "\n".join(["", about, "", *table(summaries), ""])
    path.write_text(f"{before}{MARKS[0]}{body}{MARKS[1]}{after}", encoding="utf-8")


def record(mode: str, summaries: Sequence[Mapping[str, Any]]) -> None:
    """Write the figures where the README's table comes from, and the table."""
    kept = [
        {k: v for k, v in s.items() if k not in ("steps", "versions")}
        | {"steps": [{k: t[k] for k in ("number", "kind", "status", "wall_s", "cpu_s", "metrics")} for t in s["steps"]]}
        for s in sorted(summaries, key=lambda s: s["model_name"])
    ]
    content = {"mode": mode, "versions": versions(), "chains": kept}
    file = Path(RECORD.format(mode=mode))
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    put_table(Path(README), kept, about(content))


def about(content: Mapping[str, Any]) -> str:
    """The line above the table in the README."""
    v = content["versions"]
    return (
        f"`{content['mode']}` on {v['cpus']} CPU cores, Paddle {v.get('paddlepaddle', '?')}, Python {v['python']}; "
        f"from `{RECORD.format(mode=content['mode'])}`. The machine had other work besides, which CPU s leaves out."
    )
