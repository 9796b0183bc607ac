"""The notebook: it runs from its first cell to its last, and is kept without what it printed."""

import ast
import importlib.util
import json
import pathlib
import re

import pytest

from igerg_jax.batch import EMOTIONS

NOTEBOOK = pathlib.Path(__file__).parent.parent / "docs" / "tutorial" / "seven-faces.ipynb"


def code_cells():
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def test_it_is_kept_without_outputs():
    code = code_cells()
    assert len(code) > 5 and not any(c["outputs"] or c["execution_count"] for c in code)


def test_what_it_imports_of_this_package_is_there():
    imported = 0
    for cell in code_cells():
        source = re.sub(r"^(\s*)%.*", r"\1pass", "".join(cell["source"]), flags=re.MULTILINE)
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("igerg_jax"):
                module = importlib.import_module(node.module)
                for name in node.names:
                    submodule = f"{node.module}.{name.name}"
                    assert hasattr(module, name.name) or importlib.util.find_spec(submodule)
                    imported += 1
    assert imported > 1


@pytest.mark.slow
def test_it_runs_to_seven_answers(tmp_path):
    nbclient = pytest.importorskip("nbclient", reason="pip install -r requirements-notebook.txt")
    pytest.importorskip("ipykernel", reason="pip install -r requirements-notebook.txt")
    import nbformat

    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    nbclient.NotebookClient(
        notebook, timeout=600, resources={"metadata": {"path": str(NOTEBOOK.parents[2])}}
    ).execute()
    texts = ["".join(str(out) for out in cell.get("outputs", ())) for cell in notebook.cells]
    printed = "\n".join(texts)
    assert "4.67 M parameters" in printed and "the judge reads:" in printed
    seen = re.findall(r"alt=\"(\w+)\"></td><td [^>]*>seen: (\w+)", printed)
    assert [name for name, _ in seen] == list(EMOTIONS)
    assert sum(name == found for name, found in seen) >= 5, seen
    answers = re.findall(r"alt=\"\w+\"></td><td [^>]*>([^<]*)<", texts[-2])
    assert len(answers) == len(EMOTIONS) and len(set(answers)) >= 5, answers
