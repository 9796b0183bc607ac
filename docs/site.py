"""MkDocs hooks that build the site of the docs (see mkdocs.yml).

README.md, CONTRIBUTING.md and CHANGELOG.md are pages too; the references of commands and config
keys are generated from the code; formulas become MathML, which browsers render themselves.
"""

import ast
import html
import itertools
import os
import pathlib
import posixpath
import re

from latex2mathml.converter import convert
from mkdocs.structure.files import File

from igerg_jax.cli.igerg import COMMANDS
from igerg_jax.run import config_files, config_keys

ROOT = pathlib.Path(__file__).parent.parent
# {page of the site: file of the repository}
PAGES = {
    "index.md": "README.md",
    "contributing.md": "CONTRIBUTING.md",
    "changes.md": "CHANGELOG.md",
}
LINK = re.compile(r"(!?\[[^\]]*\])\(([^)\s]+)\)")
TABLE = ("| key | value | meaning |", "|---|---|---|")  # of config keys
CELL = re.compile(r"<td\b.*?</td>", re.DOTALL)
CODE = re.compile(r"(?<=<code>).*?(?=</code>)", re.DOTALL)
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)


def on_files(files, config):
    """Adds the pages that are generated."""
    generated = {page: (ROOT / file).read_text("utf-8") for page, file in PAGES.items()}
    generated |= {"reference/commands.md": commands(), "reference/config.md": config_reference()}
    for page, text in generated.items():
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown, page, config, files):
    """Redirects links between files of the repository to pages of the site, or to the code."""
    place = posixpath.dirname(PAGES.get(page.file.src_uri, f"docs/{page.file.src_uri}"))
    here = posixpath.dirname(page.file.src_uri)
    pages = {file: uri for uri, file in PAGES.items()}

    def moved(match):
        words, target = match.groups()
        path, hash_, anchor = target.partition("#")
        if not path or "://" in path:
            return match[0]
        path = posixpath.normpath(posixpath.join(place, path))
        uri = pages.get(path, path.removeprefix("docs/"))
        if files.get_file_from_path(uri) and (path in pages or path.startswith("docs/")):
            return f"{words}({posixpath.relpath(uri, here or '.')}{hash_}{anchor})"
        if not (ROOT / path).exists():
            return match[0]  # a broken link, which MkDocs reports
        if not config.repo_url:
            return words.lstrip("!")[1:-1]
        return f"{words}({config.repo_url}/blob/main/{path}{hash_}{anchor})"

    return LINK.sub(moved, markdown)


def on_page_content(content, page, config, files):
    """Converts formulas to MathML, and says where code in narrow tables may be broken."""

    def mathml(match):
        text = html.unescape(match[2])
        if match[1] == "div":
            return f'<div class="formula">{convert(text, display="block")}</div>'
        return convert(text, display="inline")

    return CELL.sub(_with_breaks, FORMULA.sub(mathml, content))


def _with_breaks(cell):
    """A cell of a table whose code may be broken within a path, flag or name, but not a word."""
    return CODE.sub(lambda code: re.sub(r"(?<=[/=_])(?=\w)", "<wbr>", code[0]), cell[0])


def commands() -> str:
    """The page of commands: a section for each, with its module's docstring."""
    lines = ["# Commands", "", "`igerg COMMAND --help` also lists the flags and config keys.", ""]
    for name, command in COMMANDS.items():
        path = ROOT / (command.module.replace(".", os.sep) + ".py")
        doc = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
        lines += [f"## igerg {name}", "", command.summary, ""]
        if not command.mode:  # a module of its own
            lines += ["```text", doc, "```", ""]
    return "\n".join(lines)


def config_reference() -> str:
    """The page of config keys: tables with the values of the preset local, and the comments."""
    config = config_files.load(config_files.DEFAULT)
    values = config_keys.values_of(config)
    lines = [
        "# Config keys",
        "",
        "Every key of `configs/pretrain.py` with its value in the preset `local`. "
        "`--config.KEY=VALUE` sets one; `igerg config --config=FILE --diff` prints what a config "
        "changes.",
    ]
    groups: dict[str, list[str]] = {}
    for key in config_keys.documented():
        group, _, last = key.name.rpartition(".")
        above = html.escape(" ".join(key.above), quote=False)
        if group not in groups:
            # The comment above the first key is about the group if the key has one of its own.
            about, above = (above, "") if key.beside else ("", above)
            groups[group] = ["", f"## {group or 'The run'}", "", about, "", *TABLE]
        meaning = f"{above} {html.escape(key.beside, quote=False)}".strip().replace("|", "\\|")
        value = f"`{values[key.name]!r}`" if key.name in values else ""
        groups[group].append(f"| `{last}` | {value} | {meaning} |")
    lines += itertools.chain.from_iterable(groups.values())
    return "\n".join(lines) + "\n"
