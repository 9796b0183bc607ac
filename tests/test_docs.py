"""The docs: the site builds without a warning, and every command in them is one that there is."""

import importlib.util
import os
import pathlib
import re
import shlex
import subprocess
import sys

import pytest

from igerg_jax.cli import igerg
from igerg_jax.errors import UserError
from igerg_jax.run import command_line

ROOT = pathlib.Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
CODE = re.compile(r"^```.*?\n(.*?)^```$|((?:^    .*\n)+)", re.MULTILINE | re.DOTALL)
IN_TABLE = re.compile(r"^\| `((?:igerg|python -m) [^`]+)` \|", re.MULTILINE)
PROGRAM = re.compile(r"(?:\.venv/bin/)?(igerg|python main\.py|python -m [\w.]+)|(\./launch/\S+)")
# What stands for something of the reader's own.
STANDS_FOR = {
    "--config=…": "--config=configs/pretrain.py",
    "--config=FILE": "--config=configs/pretrain.py",
    "--config=CONFIG.py": "--config=configs/pretrain.py",
    "--checkpoint=…": "--checkpoint=small",
    "--checkpoint=RUN": "--checkpoint=small",
    "--step=K": "--step=3",
    "--windows=N": "--windows=9",
    "--batch_size=N": "--batch_size=9",
    "--config.data.prepare_workers=N": "--config.data.prepare_workers=2",
}


class Parsed(UserError):
    """Ends a program once its command line is parsed."""


def commands_of(page: pathlib.Path) -> list[list[str]]:
    """The words of each command in a page's code and in the first column of its tables."""
    text = page.read_text(encoding="utf-8")
    blocks = [a or "".join(line[4:] for line in b.splitlines(True)) for a, b in CODE.findall(text)]
    found = []
    for line in re.sub(r"\\\n\s*", "", "\n".join([*blocks, *IN_TABLE.findall(text)])).splitlines():
        line = re.sub(r"^[A-Z_]+=\S+ ", "", line.strip())  # a variable of the environment
        if PROGRAM.match(line) and not re.match(r"igerg COMMAND|igerg_jax", line):
            words = shlex.split(line.replace("[", " ").replace("]", " "), comments=True)
            found.append([STANDS_FOR.get(word, word) for word in words if word not in "…<"])
    return found


COMMANDS = [(page, words) for page in PAGES for words in commands_of(page)]


def test_commands_are_found():
    lines = {" ".join(words) for _, words in COMMANDS}
    assert "./launch/local.sh" in lines and len(lines) > 60
    assert ".venv/bin/igerg chat --checkpoint=small" in lines
    assert "igerg evaluate --config=configs/pretrain.py" in lines, "of a table"


@pytest.fixture
def parsed(tmp_path, monkeypatch) -> list:
    """Has programs stop once their command line is parsed; here is what is parsed."""
    parse, found = command_line.parse, []

    def parse_only(argv, define_flags):
        found.append(parse(argv, define_flags))
        raise Parsed("parsed")

    monkeypatch.setattr(command_line, "parse", parse_only)
    monkeypatch.syspath_prepend(str(ROOT))  # for `from configs import pretrain`
    text = (ROOT / "docs/tutorial/own-data.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (tmp_path / "mine.py").write_text(code, encoding="utf-8")
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    monkeypatch.chdir(tmp_path)
    return found


def run(words: list[str]) -> None:
    """Calls a command line's main function, in this process."""
    program, *rest = words
    if program.endswith("igerg"):
        igerg.main(["igerg", *rest])
        return
    module = "igerg_jax.cli.main" if rest[0] == "main.py" else rest[1]
    importlib.import_module(module).main([module, *rest[1 if rest[0] == "main.py" else 2 :]])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_command_is_one_that_there_is(page, parsed, capsys):
    for words in commands_of(page):
        line = " ".join(words)
        if words[0].startswith("./launch/"):
            assert os.access(ROOT / words[0], os.X_OK), line
            continue
        module = words[2] if words[1] == "-m" else ""
        if module and not module.startswith("igerg_jax."):
            assert importlib.util.find_spec(module.partition(".")[0]) or module == "pip", line
            continue
        if words[1] in ("report", "compare", "runs") or module.endswith((".report", ".compare")):
            continue  # without flags of absl; the tools' own tests run them
        parsed.clear()
        run(words)
        assert parsed, f"{line}: {capsys.readouterr().err}"


def test_pages_use_the_words_of_the_field():
    words = ["rematerialisation", "gradient accumulation", "throughput", "learning rate"]
    words += ["data parallelism", "tensor parallelism", "mixed precision", "fine-tuning"]
    text = " ".join(page.read_text(encoding="utf-8") for page in PAGES).lower()
    assert not [word for word in words if word not in text]


@pytest.mark.skipif(
    not importlib.util.find_spec("mkdocs"), reason="needs MkDocs: requirements-docs.txt"
)
def test_the_site_builds_without_a_warning(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    config = (tmp_path / "reference/config/index.html").read_text("utf-8")
    assert "<code>consistency_<wbr>ramp_<wbr>steps</code>" in config
    assert "consistency_ramp_steps" in (tmp_path / "search/search_index.json").read_text("utf-8")
    concepts = (tmp_path / "concepts/objectives/index.html").read_text("utf-8")
    # In a box of its own, which is scrolled where the page is narrow.
    assert concepts.count('<div class="formula"><math') == concepts.count('display="block"') > 0
    home = (tmp_path / "index.html").read_text("utf-8")
    assert 'href="scaling/#two-slices"' in home and "test_objectives.py</code>" in home
    assert "<code>igerg evaluate --config=<wbr>configs/<wbr>pretrain.py</code>" in home
