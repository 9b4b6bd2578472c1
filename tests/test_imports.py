"""The one-way import rule of the suite and the constructs it forbids, held by reading the syntax of the whole tree."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "ppvision"

# What each part may import directly; what those may import is allowed as well.
DIRECT = {
    "errors": set(),
    "device": {"errors"},
    "files": {"errors"},
    "version": set(),
    "threads": set(),
    "config": {"errors"},
    "nn": {"errors", "config", "device"},
    "models": {"nn"},
    "weights": {"models", "files"},
    "data": {"errors", "config", "device", "files"},
    "losses": {"nn"},
    "metrics": {"predict"},
    "predict": {"models", "weights", "data", "version"},
    "exporting": {"predict"},
    "methods": {"models", "data", "losses"},
    "engine": {"methods", "metrics", "predict", "exporting", "threads"},
    "cli": {"engine"},
}
DEPLOYED = ("nn", "models", "weights", "data", "predict", "exporting")  # what a server imports
TRAINING = ("methods", "losses", "engine")

# What is looked for on an object that may not have it, by file: objects of other packages (errors, arrays, modules).
# Networks, losses and Methods are asked nothing so: what they may offer has a default in the base of their class.
PROBED = {
    "threads.py": {"sched_getaffinity"},
    "config/component.py": {"__globals__", "components", ""},
    "config/tree.py": {"problem", "problem_mark", "reason", "strerror"},
    "config/types.py": {"__name__"},
    "data/base.py": {"name", ""},
    "data/loader.py": {"memfd_create", "send_fds"},
    "engine/optimizer.py": {"_master_weights"},
    "nn/promises.py": {""},
    "predict/runtime.py": {"sched_getaffinity"},
    "weights/download.py": {"reason", "strerror"},
    "weights/load.py": {"dtype", "numpy"},
    "weights/reader.py": {"state"},
}

# Constructors of numpy.random that own their state; everything else there touches the global generator.
OWN_STATE = {"Generator", "default_rng", "PCG64", "Philox", "SeedSequence", "BitGenerator", "RandomState"}


def allowed(part: str) -> set[str]:
    """`part`, what it may import, and what those may import in turn."""
    found, todo = {part}, [part]
    while todo:
        fresh = DIRECT[todo.pop()] - found
        found |= fresh
        todo += fresh
    return found


def part_of(path: Path) -> str:
    """The part of the suite that a file under ppvision/ belongs to; the top-level modules belong to themselves."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def sources(*folders: str) -> list[Path]:
    """All Python files below the named folders of the repository."""
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes that run: `if TYPE_CHECKING:` blocks are left out, since they exist for type checkers only."""
    todo = [tree]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            todo += node.orelse
            continue
        yield node
        todo += ast.iter_child_nodes(node)


def imported(path: Path, tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, dotted module) of every import in a file, relative ones made absolute, functions' imports included."""
    package = path.relative_to(ROOT).with_suffix("").parts
    package = package[:-1]  # of a module: its package; of an __init__: the package itself
    for node in nodes(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = list(package[: len(package) - node.level + 1]) if node.level else []
            base = ".".join([*base, *([node.module] if node.module else [])])
            yield node.lineno, base
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and dotted(node.func).split(".")[-1] == "import_module":
            if node.args and isinstance(node.args[0], ast.Constant) and isinstance(node.args[0].value, str):
                yield node.lineno, node.args[0].value


@functools.cache
def modules() -> dict[str, Path]:
    """Dotted name -> file of every module of the suite but packages' faces, which only hand names on."""
    found = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in sources("ppvision")}
    return {name: path for name, path in found.items() if not name.endswith("__init__")}


def module_imports(name: str) -> set[str]:
    """The modules that a module imports anywhere, functions and blocks for type checkers included."""
    tree, known = parse(modules()[name]), modules()
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {module for module in found if module in known and module != name}


def dotted(node: ast.AST) -> str:
    """`a.b.c` of a chain of attributes on a name, else an empty string."""
    names = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(names)]) if isinstance(node, ast.Name) else ""


def wrong_imports(path: Path, tree: ast.AST) -> list[str]:
    part = part_of(path)
    if part == "__init__":  # the façade names everything, lazily: test_facade_is_lazy
        return []
    may = allowed("cli" if part == "__main__" else part)
    found = []
    for line, module in imported(path, tree):
        names = module.split(".")
        if names[0] == "ppvision" and len(names) > 1 and names[1] in DIRECT and names[1] not in may:
            found.append(f"{path.relative_to(ROOT)}:{line}: {part} may not import ppvision.{names[1]}")
    return sorted(set(found))


def probes(path: Path, tree: ast.AST) -> list[str]:
    """`hasattr` and `getattr` with a default, but for those of `PROBED`; a name that is not written out is ""."""
    file = path.relative_to(PACKAGE).as_posix()
    found = []
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
            continue
        if node.func.id == "hasattr" or (node.func.id == "getattr" and len(node.args) == 3):
            name = node.args[1].value if isinstance(node.args[1], ast.Constant) else ""
            if name not in PROBED.get(file, ()):
                found.append(f"ppvision/{file}:{node.lineno}: {ast.unparse(node)}")
    return found


def forbidden(path: Path, tree: ast.AST) -> list[str]:
    """Code executed from data, and random numbers drawn from a state that somebody else owns."""
    where = path.relative_to(ROOT).as_posix()
    found = []

    def complain(node: ast.AST, what: str) -> None:
        found.append(f"{where}:{node.lineno}: {what}")

    names = {"np": "numpy"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update({alias.asname: alias.name for alias in node.names if alias.asname})
            if any(alias.name == "random" for alias in node.names):
                complain(node, "module random: transforms get their own numpy Generator")
        elif isinstance(node, ast.ImportFrom) and not node.level:
            for alias in node.names:
                names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
            if node.module == "random":
                complain(node, "module random: transforms get their own numpy Generator")
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            full = dotted(node)
            head, _, tail = full.partition(".")
            full = f"{names.get(head, head)}.{tail}" if tail else full
            if full.startswith("numpy.random.") and full.split(".")[2] not in OWN_STATE:
                complain(node, f"{full} uses the global generator")
        if not isinstance(node, ast.Call):
            continue
        head, _, tail = dotted(node.func).partition(".")
        call = f"{names.get(head, head)}.{tail}" if tail else names.get(head, head)
        if call in ("eval", "exec", "compile", "__import__") and not tail:
            complain(node, f"{call}() executes data")
        elif call in ("paddle.load", "torch.load", "joblib.load", "dill.load", "dill.loads"):
            complain(node, f"{call} executes code in the file; ppvision.weights.read does not")
        elif call in ("pickle.load", "pickle.loads", "_pickle.load", "_pickle.loads"):
            complain(node, f"{call} executes code in the file")
        elif call in ("yaml.load", "yaml.unsafe_load", "yaml.full_load", "yaml.load_all"):
            complain(node, f"{call}: use yaml.safe_load")
        elif call == "numpy.load" and any(k.arg == "allow_pickle" for k in node.keywords):
            complain(node, "numpy.load(allow_pickle=...)")
        elif call in ("paddle.seed", "paddle.framework.seed") and not where.startswith(
            ("ppvision/engine/", "tools/experiments/")
        ):
            complain(node, "paddle.seed belongs to the trainer")
        elif call in ("numpy.random.default_rng", "numpy.random.RandomState") and not node.args + node.keywords:
            complain(node, f"{call}() without a seed")
    return found


def parse(path: Path) -> ast.AST:
    return ast.parse(path.read_text("utf-8"), str(path))


class TestTree:
    @pytest.mark.parametrize("part", sorted(path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()))
    def test_imports_go_one_way(self, part):
        assert part in DIRECT, f"ppvision/{part} is new: say in tests/test_imports.py what it may import"
        faults = [fault for path in sources(f"ppvision/{part}") for fault in wrong_imports(path, parse(path))]
        assert not faults, "\n".join(faults)

    def test_top_level_modules_go_one_way(self):
        faults = [fault for path in PACKAGE.glob("*.py") for fault in wrong_imports(path, parse(path))]
        assert not faults, "\n".join(faults)

    def test_no_module_is_in_a_circle(self):
        """Not even for type checkers: who needs another's name has it from below."""
        imports = {name: module_imports(name) for name in modules()}
        waiting = dict(imports)
        while waiting:
            free = [name for name, needs in waiting.items() if not needs & waiting.keys()]
            if not free:
                break
            for name in free:
                del waiting[name]
        # what is left imports a circle, or is in one: keep only what something left imports
        while True:
            needed = set().union(*waiting.values()) if waiting else set()
            outer = [name for name in waiting if name not in needed]
            if not outer:
                break
            for name in outer:
                del waiting[name]
        assert not waiting, f"circle among {', '.join(sorted(waiting))}"

    def test_no_code_from_data_and_no_global_generator(self):
        files = sources("ppvision", "tools", "deploy")
        assert len(files) > 20
        faults = [fault for path in files for fault in forbidden(path, parse(path))]
        assert not faults, "\n".join(faults)

    def test_nobody_probes_networks_losses_and_methods(self):
        files = sources("ppvision")
        assert len(files) > 100
        faults = [fault for path in files for fault in probes(path, parse(path))]
        assert not faults, "\n".join(faults)

    def test_every_folder_with_modules_is_a_package(self):
        """setuptools.find_packages leaves out a folder without __init__.py, and the wheel would lack it."""
        folders = {path.parent for path in PACKAGE.rglob("*.py")}
        assert not [str(folder.relative_to(ROOT)) for folder in folders if not (folder / "__init__.py").exists()]


class TestTheRuleItself:
    """Each check must see what it is there for."""

    @pytest.mark.parametrize(
        "file, code",
        [
            ("models/x.py", "from ppvision.methods import base"),
            ("models/x.py", "def f():\n    from ..engine import trainer"),
            ("models/sub/x.py", "from ...engine import trainer"),
            ("nn/x.py", "import ppvision.models.zoo"),
            ("nn/__init__.py", "from .. import losses"),
            ("exporting/x.py", "import importlib\nimportlib.import_module('ppvision.losses')"),
            ("engine/x.py", "from ppvision import cli"),
            ("errors.py", "from ppvision import config"),
            ("data/x.py", "from ppvision.models import zoo"),
        ],
    )
    def test_sees_a_wrong_import(self, file, code):
        assert wrong_imports(PACKAGE / file, ast.parse(code))

    @pytest.mark.parametrize(
        "file, code",
        [
            ("models/x.py", "from ppvision.nn import heads\nfrom ppvision.errors import UserError"),
            ("exporting/x.py", "from ..models import zoo"),
            ("predict/x.py", "if TYPE_CHECKING:\n    from ppvision.engine import trainer"),
            ("cli/x.py", "from ppvision.exporting import export\nfrom ppvision.methods import base"),
        ],
    )
    def test_lets_a_right_import_pass(self, file, code):
        assert not wrong_imports(PACKAGE / file, ast.parse(code))

    @pytest.mark.parametrize(
        "code",
        [
            "import numpy as np\nnp.random.rand(3)",
            "import numpy\nnumpy.random.seed(0)",
            "from numpy import random as r\nr.shuffle(x)",
            "import numpy as np\nrng = np.random.default_rng()",
            "import random",
            "from random import shuffle",
            "import paddle\npaddle.seed(1)",
            "import paddle\npaddle.load('x')",
            "import pickle as p\np.loads(b'')",
            "from pickle import load\nload(f)",
            "import yaml\nyaml.load(f, Loader=yaml.Loader)",
            "eval('1')",
            "exec(text)",
            "import numpy as np\nnp.load(f, allow_pickle=True)",
        ],
    )
    def test_sees_a_forbidden_construct(self, code):
        assert forbidden(PACKAGE / "data/x.py", ast.parse(code))

    @pytest.mark.parametrize(
        "code", ["hasattr(net, 'features')", "getattr(net, 'num_classes', 0)", "hasattr(net, name)"]
    )
    def test_sees_a_probe(self, code):
        assert probes(PACKAGE / "models/x.py", ast.parse(code))
        assert not probes(PACKAGE / "models/x.py", ast.parse("getattr(self, name)\npromises(net).num_classes"))

    @pytest.mark.parametrize(
        "code",
        [
            "net.eval()",
            "import numpy as np\nnp.random.Generator(np.random.Philox(key=1)).random()",
            "import numpy as np\nnp.random.default_rng(0).normal()",
            "import yaml\nyaml.safe_load(f)",
            "def f(rng):\n    return rng.random()",
        ],
    )
    def test_lets_the_right_way_pass(self, code):
        assert not forbidden(PACKAGE / "data/x.py", ast.parse(code))


def modules_after(statement: str) -> set[str]:
    """Names in sys.modules of a fresh interpreter that ran `statement`."""
    code = f"{statement}\nimport sys; print('\\n'.join(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    return set(run.stdout.split())


class TestAtRunTime:
    def test_export_brings_no_training_code(self):
        modules = modules_after("import ppvision.exporting")
        assert "ppvision.exporting" in modules
        assert not {f"ppvision.{part}" for part in TRAINING} & modules

    def test_no_module_a_server_imports_brings_training_code(self):
        names = [
            ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            for path in sources(*(f"ppvision/{part}" for part in DEPLOYED))
        ]
        modules = modules_after("\n".join(f"import {name}" for name in names))
        assert set(names) <= modules
        assert not sorted(m for m in modules if m.startswith(tuple(f"ppvision.{part}" for part in TRAINING)))

    @pytest.mark.parametrize(
        "module", ["ppvision", "ppvision.threads", "ppvision.config", "ppvision.cli", "ppvision.models.zoo"]
    )
    def test_what_answers_fast_brings_no_paddle(self, module):
        heavy = {"paddle", "cv2", "onnx", "onnxruntime", "scipy", "matplotlib"}
        assert not heavy & modules_after(f"import {module}")

    @pytest.mark.parametrize("part", ["methods", "losses", "data", "metrics", "predict", "engine"])
    def test_a_table_of_names_brings_no_paddle(self, part):
        assert "paddle" not in modules_after(f"import ppvision.{part}")
