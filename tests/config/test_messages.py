"""What the messages of ppvision/config send a person to is there."""

import re
from pathlib import Path

import pytest

from ppvision.config import load
from ppvision.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
NAMED = re.compile(r"\b(?:docs|configs|tools|deploy|requirements)/[\w./-]+\.\w+\b")


def named_files():
    """Path of each file that a source of the package names, and where."""
    for source in sorted((ROOT / "ppvision/config").glob("*.py")):
        for name in NAMED.findall(source.read_text("utf-8")):
            # Examples of origins ("configs/x.yml:12") name no file of ours.
            if not re.fullmatch(r"configs/\w\.ya?ml", name):
                yield source.name, name


def test_files_named_in_messages_exist():
    named = list(named_files())
    assert ("tree.py", "docs/migration.md") in named
    assert [(source, name) for source, name in named if not (ROOT / name).is_file()] == []


@pytest.mark.parametrize("key", ["architecture", "_BASE_", "Arch", "Global", "train_dataset"])
def test_the_page_speaks_of_every_file_that_is_refused(tmp_path, key):
    (tmp_path / "theirs.yml").write_text(f"{key}: {{}}\n")
    with pytest.raises(UserError) as caught:
        load(tmp_path / "theirs.yml")
    page = (ROOT / re.search(r"docs/\S+\.md", str(caught.value))[0]).read_text("utf-8")
    assert f"`{key}" in page
