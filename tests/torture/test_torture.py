"""tools/torture.py: parts, status, the results file."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
from outcome import Outcome

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def torture(monkeypatch):
    spec = importlib.util.spec_from_file_location("torture", ROOT / "tools/torture.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def stand_in(torture, monkeypatch, broken=()):
    """Every part ends at once."""
    import types

    def run(count, seed, folder, say):
        say("working")
        assert folder.is_dir()
        return Outcome("what", "net", count, list(broken), {"more": 1.5})

    monkeypatch.setattr(torture.importlib, "import_module", lambda name: types.SimpleNamespace(run=run))


def test_every_part_has_its_row_and_replaces_it(torture, monkeypatch, tmp_path, capsys):
    stand_in(torture, monkeypatch)
    target = tmp_path / "reliability.json"
    assert torture.main(["endurance", "--count", "7", "--json", str(target)]) == 0
    assert torture.main(["all", "--json", str(target)]) == 0
    assert torture.main(["weights", "--count", "31", "--seed", "5", "--json", str(target)]) == 0
    rows = torture.tables().read(target)["rows"]
    assert [torture.part_of(row) for row in rows] == ["kills", "mutants", "weights", "index", "endurance"]
    assert [row["metrics"]["tried"] for row in rows] == [100, 200, 31, 1_000_000, 20_000]
    assert rows[2]["seed"] == 5 and rows[2]["machine"]["cores"] >= 1 and rows[2]["metrics"]["more"] == 1.5
    assert "0 broken promises" in capsys.readouterr().out


def test_a_broken_promise_is_status_1_and_recorded(torture, monkeypatch, tmp_path, capsys):
    stand_in(torture, monkeypatch, ["iter_4: unreadable"])
    target = tmp_path / "reliability.json"
    assert torture.main(["kills", "--json", str(target)]) == 1
    assert "BROKEN kills: iter_4: unreadable" in capsys.readouterr().out
    (row,) = json.loads(target.read_text())["rows"]
    assert row["metrics"]["broken"] == 1 and row["note"] == "iter_4: unreadable"


def test_code_that_changes_meanwhile_is_not_a_fair_run(torture, monkeypatch, tmp_path, capsys):
    stand_in(torture, monkeypatch)
    digests = iter("ab")
    monkeypatch.setattr(torture, "code", lambda: next(digests))
    assert torture.main(["weights", "--json", str(tmp_path / "x.json")]) == 2
    assert not (tmp_path / "x.json").exists() and "the code changed" in capsys.readouterr().err


@pytest.mark.parametrize("argv", [["all", "--count", "3"], ["kills", "--count", "0"]])
def test_a_count_that_means_nothing_is_refused(torture, argv, capsys):
    assert torture.main(argv) == 2
    assert "--count" in capsys.readouterr().err


def test_committed_figures_are_of_full_runs(torture):
    path = ROOT / "results/reliability.json"
    assert path.exists(), "the figures of docs/reliability.md are gone"
    read = torture.tables().read(path)["rows"]
    rows = {torture.part_of(row): row["metrics"] for row in read}
    notes = {torture.part_of(row): row.get("note", "") for row in read}
    assert rows and set(rows) <= set(torture.PARTS)
    for part, metrics in rows.items():
        assert metrics["tried"] >= torture.PARTS[part][1], f"{part}: a shorter run than the one that is promised"
        if metrics["broken"]:  # a miss may stand there, but never without a word
            assert notes[part], f"{part}: {metrics['broken']} broken promises and no note"
