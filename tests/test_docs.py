"""Documents say what is so: tables in step with results and code, commands that parse, files and links that exist."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

from ppvision import cli
from ppvision.cli import recipe
from ppvision.cli import tables as flags
from ppvision.cli.parser import parse_args
from ppvision.models import zoo

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [ROOT / "README.md", ROOT / "results/README.md", *sorted((ROOT / "docs").glob("*.md"))]
RECIPES = sorted(path for path in (ROOT / "configs").glob("*/*.yml") if path.parent.name != "_base_")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
GENERATED = re.compile(r"<!-- (?:table|keys|names|claims): .*?<!-- end of table -->", re.DOTALL)
TARGETS = set(re.search(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)[1].split())


def tool(name: str):
    """The module tools/<name>.py, which is not part of a package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / f"tools/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def blocks(path: Path, language: str) -> list[str]:
    """The fenced blocks of one language in a document."""
    return [text for kind, text in FENCE.findall(path.read_text("utf-8")) if kind == language]


def shell_lines(text: str) -> list[str]:
    """Command lines of a shell block: continuations joined, comments and blank lines left out."""
    lines = text.replace("\\\n", " ").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.strip().startswith("#")]


def documented() -> list[tuple[str, str]]:
    """(place, command line) of every shell block, of indented and inline commands, and of the recipes' headers."""
    found = []
    for path in DOCUMENTS:
        text = path.read_text("utf-8")
        found += [(path.name, line) for block in blocks(path, "sh") for line in shell_lines(block)]
        found += [(path.name, line) for line in re.findall(r"`((?:ppvision \w+|python tools/)[^`\n]*)`", text)]
    for path in RECIPES:
        head = re.match(r"(?:#.*\n)*", path.read_text("utf-8"))[0]
        lines = re.findall(r"^#\s+(?:python|make) .*", head, re.MULTILINE)
        found += [(path.relative_to(ROOT).as_posix(), re.split(r"\s{2,}", line.strip("# \n"))[0]) for line in lines]
    return found


def parse(words: list[str]) -> None:
    """Checks one command; raises when the program named would refuse it."""
    if words[:2] == ["make"] or words[0] == "make":
        targets = [word for word in words[1:] if "=" not in word]
        assert set(targets) <= TARGETS, f"no make target {targets}"
        for name, value in (word.split("=", 1) for word in words[1:] if "=" in word):
            assert name in ("CONFIG", "ARGS", "RUN", "PYTHON", "TESTS", "WORKERS"), f"make ignores {name}"
            assert name != "CONFIG" or "..." in value or (ROOT / value).is_file(), f"no recipe {value}"
        return
    scripts = [i for i, word in enumerate(words) if re.fullmatch(r"(tools|deploy/python)/\w+\.py", word)]
    if scripts:
        script, argv = words[scripts[0]], words[scripts[0] + 1 :]
        assert (ROOT / script).is_file(), f"no file {script}"
        name = Path(script).stem
        if name in ("tables", "pictures", "reproduce", "similarity", "torture"):
            tool(name).command_line().parse_args(argv)
            return
        verb = "infer" if script.startswith("deploy/") else {"infer": "predict"}.get(name, cli.ALIASES.get(name, name))
    elif Path(words[0]).name == "ppvision":
        verb, argv = cli.ALIASES.get(words[1], words[1]), words[2:]
    else:
        return  # pip, python -c, mkdir: not ours
    if verb.startswith("-"):
        return
    assert verb in cli.VERBS, f"no command {verb}"
    module = importlib.import_module(cli.VERBS[verb][0])
    table = flags.VERBS.get(verb) or getattr(module, "TABLE", None) or getattr(module, verb.upper())
    if not argv or "--help" in argv:
        return
    parsed = parse_args(verb, table, argv)
    for path in [parsed.config, *(parsed.files or [])]:
        if path and path.startswith("configs/"):
            assert (ROOT / path).is_file(), f"no recipe {path}"
            recipe.resolved(parsed, str(ROOT / path))


@pytest.mark.parametrize("place, line", documented(), ids=lambda text: text[:60])
def test_command_parses(place, line):
    words = shlex.split(line, comments=True)
    parse(words)


def test_there_are_commands():
    assert len(documented()) > 25


@pytest.mark.parametrize(
    "line", ["make trian", "ppvision trian -c x.yml", "python tools/train.py -c configs/no/no.yml"]
)
def test_a_wrong_command_is_seen(line):
    with pytest.raises(Exception, match=r".+"):
        parse(shlex.split(line))


def test_commands_of_make_train_parse():
    """The chain of `make train` as make would run it."""
    run = subprocess.run(["make", "-n", "train"], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    lines = [line for line in shell_lines(run.stdout) if re.search(r"(tools|deploy/python)/\w+\.py", line)]
    names = [re.search(r"(\w+)\.py", line)[1] for line in lines]
    assert [name for name in names if name != "data"] == ["train", "eval", "export", "pictures", "infer", "pictures"]
    for line in lines:
        parse(shlex.split(line))


def test_tables_are_up_to_date(capsys):
    status = tool("tables").main(["--check"])
    assert status == 0, capsys.readouterr().err


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
class TestEveryDocument:
    def test_links_lead_somewhere(self, path):
        text = FENCE.sub("", path.read_text("utf-8"))
        links = [link.split("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
        assert not [link for link in links if link and not (path.parent / link).exists()]

    def test_files_named_exist(self, path):
        text = GENERATED.sub("", path.read_text("utf-8"))
        names = set(
            re.findall(r"\b(?:configs/\w+|tools|tests|docs|results|requirements|ppvision/\w+)/[\w.]+\.\w+\b", text)
        )
        assert not sorted(name for name in names if "<" not in name and not (ROOT / name).exists())

    def test_python_and_yaml_blocks_are_valid(self, path):
        for block in blocks(path, "python"):
            ast.parse(block)
        for block in blocks(path, "yaml"):
            assert isinstance(yaml.safe_load(block), dict)

    def test_no_figure_is_typed_by_hand(self, path):
        """A decimal number beside the name of a metric belongs into results/."""
        text = FENCE.sub("", path.read_text("utf-8"))
        text = GENERATED.sub("", text)
        text = re.sub(r"^    .*$", "", text, flags=re.MULTILINE)
        metric = r"\b(mIoU|FPS|accuracy|ms|seconds|minutes)\b"
        typed = [line for line in text.splitlines() if re.search(metric, line) and re.search(r"\d\.\d", line)]
        assert not typed


@pytest.mark.parametrize("name", [name for name in zoo.list_models() if zoo.entry(name).published])
def test_published_figures_of_zoo_and_results_agree(name):
    table = tool("tables")
    rows = [row for file in sorted((ROOT / "results").glob("*_published.json")) for row in table.read(file)["rows"]]
    stored = {value for row in rows if row["model"] == name for value in row["metrics"].values()}
    assert {value for value, _ in zoo.entry(name).published.values()} <= stored


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_begins_with_its_story(path):
    head = re.match(r"(?:#.*\n)*", path.read_text("utf-8"))[0]
    assert path.relative_to(ROOT).as_posix() in head, "the command that runs it"
    assert re.search(r"\b(not trained|measured|ours)\b", head, re.IGNORECASE), "our figure, or that there is none"
