"""tools/tables.py: results files are checked, rendered with their source, and put between markers."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
spec = importlib.util.spec_from_file_location("tables", ROOT / "tools/tables.py")
tables = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tables)

PUBLISHED = {
    "kind": "published",
    "model": "net_a",
    "data": "City val",
    "metrics": {"mIoU": 79.24, "flip": None},
    "source": "paper",
    "reference": "table 2",
}
MEASURED = {
    "kind": "measured",
    "model": "net_a",
    "data": "bear",
    "metrics": {"mIoU": 0.9},
    "command": "make train",
    "seed": 0,
    "machine": {"cpu": "C", "cores": 2, "system": "Linux", "device": "cpu"},
    "versions": {"paddlepaddle": "3.3.1"},
    "date": "2026-01-01",
}
TABLE = {
    "title": "A table",
    "columns": [["model", "Model"], ["metrics.mIoU", "mIoU", ".2f"], ["metrics.flip", "flip", ".2f"]],
    "rows": [PUBLISHED, MEASURED],
}


def results(folder: Path, table: dict = TABLE, name: str = "t") -> Path:
    (folder / f"{name}.json").write_text(json.dumps(table), "utf-8")
    return folder


class TestRead:
    def test_every_committed_file_is_valid(self):
        files = sorted((ROOT / "results").glob("*.json"))
        assert files
        for file in files:
            tables.read(file)

    @pytest.mark.parametrize(
        "change, message",
        [
            ({"kind": "guessed"}, "kind"),
            ({"source": "memory"}, "source"),
            ({"reference": None}, "reference"),
            ({"metrics": {"mIoU": "79.24"}}, "mIoU"),
            ({"metrics": {"mIoU": float("nan")}}, "mIoU"),
            ({"metrics": {"mIoU": True}}, "mIoU"),
            ({"seed": 3}, "unknown keys seed"),
        ],
    )
    def test_refuses_an_incomplete_published_row(self, tmp_path, change, message):
        results(tmp_path, {**TABLE, "rows": [{**PUBLISHED, **change}]})
        with pytest.raises(tables.Fault, match=message):
            tables.read(tmp_path / "t.json")

    @pytest.mark.parametrize("key", ["command", "machine", "versions", "seed", "date"])
    def test_refuses_a_measurement_that_cannot_be_repeated(self, tmp_path, key):
        row = {k: v for k, v in MEASURED.items() if k != key}
        results(tmp_path, {**TABLE, "rows": [row]})
        with pytest.raises(tables.Fault, match=key):
            tables.read(tmp_path / "t.json")

    def test_refuses_another_shape(self, tmp_path):
        results(tmp_path, {"title": "x", "rows": []})
        with pytest.raises(tables.Fault, match="columns"):
            tables.read(tmp_path / "t.json")

    def test_written_file_reads_back(self, tmp_path):
        for table in (TABLE, {**TABLE, "rows": []}):
            tables.write(table, tmp_path / "t.json")
            assert tables.read(tmp_path / "t.json") == table


class TestRender:
    def test_numbers_dashes_and_sources(self):
        head, _, published, measured = tables.render(TABLE).splitlines()
        assert head == "| Model | mIoU | flip | Source |"
        assert published == "| net_a | 79.24 | - | paper: table 2 |"
        assert measured.startswith(
            "| net_a | 0.90 | - | measured 2026-01-01, 2 x C, Paddle 3.3.1, seed 0: `make train`"
        )

    def test_replaces_only_what_stands_between_markers(self, tmp_path):
        text = "before\n<!-- table: t -->\nold\n<!-- end of table -->\nafter\n"
        new = tables.regenerate(text, results(tmp_path))
        assert new.startswith("before\n<!-- table: t -->\n| Model |") and new.endswith("<!-- end of table -->\nafter\n")
        assert "old" not in new
        assert tables.regenerate(new, tmp_path) == new

    def test_a_marker_without_end_is_an_error(self, tmp_path):
        with pytest.raises(tables.Fault, match="end of table"):
            tables.regenerate("<!-- table: t -->\n| x |\n", results(tmp_path))

    def test_keys_come_from_the_schema(self):
        text = tables.render_keys("Train")
        assert "| `batch_size` | int >= 1 | `2` |" in text
        assert "| `amp` | O0, O1, O2 | `O0` |" in text

    def test_claims_are_told_with_verdict_caveats_and_source(self, tmp_path):
        claim = {"system": "a", "experiment": "x", "claim": "More | less.", "verdict": "FAIL", "reason": "0.1 less"}
        claim |= {"caveats": ["small"], "quick": False, "seeds": [0], "figures": {}, "command": "run a x"}
        claim |= {"machine": {"cores": 2, "cpu": "C"}, "versions": {"paddlepaddle": "3.3.1"}, "date": "2026-01-01"}
        (tmp_path / "a_x.json").write_text(json.dumps(claim), "utf-8")
        (tmp_path / "a_b_x.json").write_text(json.dumps({**claim, "system": "a_b"}), "utf-8")
        text = tables.render_claims("a", tmp_path)
        assert text.splitlines()[2:] == [
            "| `x` | More / less. | FAIL | 0.1 less; *small* | measured 2026-01-01, 2 x C, Paddle 3.3.1: `run a x` |"
        ]
        assert "none yet" in tables.render_claims("c", tmp_path)
        (tmp_path / "a_x.json").write_text(json.dumps({**claim, "quick": True}), "utf-8")
        with pytest.raises(tables.Fault, match="quick run"):
            tables.render_claims("a", tmp_path)

    def test_names_come_from_the_name_tables(self):
        text = tables.render_names("ppvision.data.TRANSFORMS")
        assert "| `RandomFlip` | `p=0.5`" in text
        assert "`self`" not in text

    def test_promises_come_from_the_class(self):
        lines = tables.render_promises("ppvision.models.network.Network").splitlines()
        assert lines[2] == "| `num_classes` | `0` | 0 where there are none. |"
        assert any(line.startswith("| `feature_channels` | `{}` | name of a map of `features` -> ") for line in lines)
        assert "| `inputs()` | `{'image': IMAGE}` | What `forward` takes, by name, in its order. |" in lines
        assert any(line.startswith("| `explained(image, chosen, *more)` | not offered | ") for line in lines)
        assert not any("_missing" in line or "`self" in line for line in lines)
        method = tables.render_promises("ppvision.methods.base.Method")
        assert "| `on_update(step)` | does nothing | Called after each update" in method
        assert "| `begin(step, seed, rank)` | see the code | " in method


class TestMain:
    def test_add_records_and_replaces(self, tmp_path):
        results(tmp_path, {**TABLE, "rows": [PUBLISHED]})
        for value in ("0.5", "0.75"):
            status = tables.main(
                ["--results", str(tmp_path), "add", "t", "--model", "net_b", "--data", "bear", "--seed", "1"]
                + ["--metric", f"mIoU={value}", "--metric", "minutes=3", "--command", "make train"]
            )
            assert status == 0
        old, new = tables.read(tmp_path / "t.json")["rows"]
        assert old == PUBLISHED
        assert new["metrics"] == {"mIoU": 0.75, "minutes": 3}
        assert new["machine"]["cores"] >= 1 and new["versions"]["numpy"]

    def test_check_reports_a_stale_document(self, tmp_path, monkeypatch, capsys):
        document = tmp_path / "README.md"
        document.write_text("<!-- table: t -->\n<!-- end of table -->\n", "utf-8")
        monkeypatch.setattr(tables, "documents", lambda: [document])
        args = ["--results", str(results(tmp_path))]
        assert tables.main([*args, "--check"]) == 1
        assert "README.md" in capsys.readouterr().err
        assert tables.main(args) == 0
        assert "79.24" in document.read_text("utf-8")
        assert tables.main([*args, "--check"]) == 0

    def test_a_missing_file_is_one_line_and_status_2(self, tmp_path, monkeypatch, capsys):
        document = tmp_path / "README.md"
        document.write_text("<!-- table: absent -->\n<!-- end of table -->\n", "utf-8")
        monkeypatch.setattr(tables, "documents", lambda: [document])
        assert tables.main(["--results", str(tmp_path)]) == 2
        assert capsys.readouterr().err.startswith("tables: absent.json")
