"""Tables and JUnit: what people and machines read of a run."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from test_tipc.harness import report

ROOT = Path(__file__).parents[2]


def summary(*statuses: str) -> dict:
    steps = [
        {
            "number": i,
            "kind": kind,
            "trainer": "t",
            "gpu": "-1",
            "command": "c",
            "status": status,
            "reason": "\x00why\x1b[33m",
        }
        | {"wall_s": 1.0, "cpu_s": 0.5, "metrics": {"loss": 0.5, "ips": 3.0}}
        for i, (kind, status) in enumerate(zip(("train", "eval", "infer"), statuses), 1)
    ]
    count = lambda word: sum(s == word for s in statuses)
    return {
        "model_name": "m",
        "mode": "x",
        "start": "2026-01-01T00:00:00",
        "wall_s": 3.0,
        "passed": count("passed"),
        "failed": count("failed"),
        "skipped": count("skipped"),
        "steps": steps,
    }


def test_junit_holds_nothing_xml_cannot():
    root = ElementTree.fromstring(
        report.junit([summary("passed", "failed", "skipped")], {2: ["\x1b[31mred\x1b[0m \x07"]})
    )
    cases = root[0].findall("testcase")
    assert [c.find("failure") is not None for c in cases] == [False, True, False]
    assert cases[1].find("failure").get("message") == "why" and cases[1].find("failure").text == "c\nred "
    assert cases[2].find("skipped").get("message") == "why"


def test_table():
    lines = report.table([summary("passed", "failed", "skipped")])
    assert [cell.strip() for cell in lines[2].split("|")[1:-1]] == [
        *("m", "3", "1", "1", "0", "1", "0", "3", "2", "loss 0.500", "eval failed, 1 skipped"),
    ]


@pytest.mark.parametrize(
    ("text", "ok"), [("a\n<!-- tipc table -->\nold\n<!-- end of tipc table -->\nb\n", True), ("a\n", False)]
)
def test_a_table_goes_between_its_marks(text, ok, tmp_path):
    file = tmp_path / "README.md"
    file.write_text(text)
    if not ok:
        with pytest.raises(ValueError, match="has no"):
            report.put_table(file, [summary("passed")], "About.")
        return
    for _ in range(2):
        report.put_table(file, [summary("passed")], "About.")
    found = file.read_text()
    assert (
        found.startswith("a\n<!--") and found.endswith("-->\nb\n") and "old" not in found and found.count("About.") == 1
    )


def test_the_readme_shows_the_recorded_run(tmp_path):
    content = json.loads((ROOT / "results/tipc/lite_train_lite_infer.json").read_text())
    text = (ROOT / "test_tipc/README.md").read_text()
    copy = tmp_path / "README.md"
    copy.write_text(text)
    report.put_table(copy, content["chains"], report.about(content))
    assert copy.read_text() == text
    folders = {p.name for p in (ROOT / "test_tipc/configs").iterdir()}
    assert {c["model_name"] for c in content["chains"]} == folders
    assert all(c["passed"] == len(c["steps"]) for c in content["chains"])
