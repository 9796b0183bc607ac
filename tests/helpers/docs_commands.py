"""The commands in the docs: what a reader could type, wherever a page has it."""

import pathlib
import re

ROOT = pathlib.Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    *(ROOT / "docs" / "tutorial" / f"{name}.md" for name in ("first-run", "own-data")),
    *(ROOT / "docs" / "tutorial" / f"{name}.md" for name in ("fine-tuning", "scaling-up")),
]
PAGES += [page for page in sorted((ROOT / "docs").rglob("*.md")) if page not in PAGES]
PAGES += [ROOT / "CONTRIBUTING.md", ROOT / "igerg_jax" / "pretrained" / "small" / "README.md"]
_FENCED = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INDENTED = re.compile(r"(?:^    .*\n)+", re.MULTILINE)
_SPAN = re.compile(r"`([^`\n]+)`")
_PROGRAM = re.compile(
    r"(igerg|python|pip|pytest|main\.py|tensorboard|wandb|hf|pre-commit|ruff|mypy|\./launch/\S+"
    r"|docker|apt-get|gcloud|ssh|cp|cd)(?= |$)"
)
_SHELL = ("", "sh")  # languages of fenced blocks


def commands_of(page: pathlib.Path) -> list[str]:
    """In the order of the page: of its blocks and tables, then those within sentences."""
    text = page.read_text(encoding="utf-8")
    blocks = [body for language, body in _FENCED.findall(text) if language in _SHELL]
    text = _FENCED.sub("", text)
    blocks += [re.sub("^    ", "", body, flags=re.MULTILINE) for body in _INDENTED.findall(text)]
    lines = re.sub(r"\\\n\s*", "", "\n".join(blocks)).splitlines()
    spans = [span for span in _SPAN.findall(_INDENTED.sub("", text)) if _is_whole(_plain(span))]
    found = [plain for line in [*lines, *spans] if _PROGRAM.match(plain := _plain(line))]
    return list(dict.fromkeys(found))


def _plain(line: str) -> str:
    """A line without what differs between pages: the folder, comments, the environment."""
    line = re.sub(r"\s+#.*", "", line.strip())
    line = re.sub(r"(^|&& )\.venv/bin/", r"\1", re.sub(r"^([A-Z_]+=\S+ )+", "", line))
    return " ".join(line.split())


def _is_whole(span: str) -> bool:
    """Whether code in a sentence is a command to type, not the name of one."""
    words = span.split()
    return len(words) > 2 or any(word.startswith("-") for word in words[1:])
