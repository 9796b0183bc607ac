"""The keys of configs, and their comments in configs/pretrain.py."""

import ast
import difflib
import io
import textwrap
import tokenize
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from igerg_jax.run import config_files
from igerg_jax.run.workdirs import flatten

ABSENT = "absent"


class Key(NamedTuple):
    """A key as `_all_keys` of configs/pretrain.py sets it."""

    name: str  # dotted, without "config."
    lines: range  # of the file
    above: list[str]  # lines of comments above it
    beside: str  # the comment at the end of its line


def documented() -> list[Key]:
    """Every key of configs/pretrain.py with its comments, in the file's order."""
    source = (config_files.PACKAGED / "pretrain.py").read_text(encoding="utf-8")
    functions = [n for n in ast.parse(source).body if isinstance(n, ast.FunctionDef)]
    all_keys = next(function for function in functions if function.name == "_all_keys")
    keys: list[Key] = []
    for node in all_keys.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Attribute):
            keys += _keys(ast.unparse(node.targets[0]).removeprefix("config."), node, node.value)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        line, comment = token.start[0], token.string.removeprefix("#").strip()
        if token.type != tokenize.COMMENT or line not in range(
            all_keys.lineno, (all_keys.end_lineno or 0) + 1
        ):
            continue
        if token.line.lstrip().startswith("#"):
            next(key for key in keys if key.lines[0] > line).above.append(comment)
        else:
            i = next(i for i, key in enumerate(keys) if line in key.lines)
            keys[i] = keys[i]._replace(beside=comment)
    return keys


def _keys(name: str, node: ast.stmt | ast.keyword, value: ast.expr) -> list[Key]:
    """The keys that an assignment to `name` sets: itself, or those of a ConfigDict or dict."""
    if isinstance(value, ast.Call) and ast.unparse(value.func) in ("dict", "ConfigDict"):
        if value.args:
            return _keys(name, node, value.args[0])
        return [
            key
            for keyword in value.keywords
            for key in _keys(f"{name}.{keyword.arg}", keyword, keyword.value)
        ]
    return [Key(name, range(node.lineno, (node.end_lineno or node.lineno) + 1), [], "")]


def describe(config: ConfigDict) -> str:
    """A line for each key with its value and comments, for users."""
    values, lines, group = values_of(config), [], ""
    for key in documented():
        if key.name not in values:
            continue
        first, group = group, key.name.split(".")[0] if "." in key.name else "config"
        if first and first != group:
            lines.append("")
        lines += [f"# {line}" for line in key.above]
        beside = f"  # {key.beside}" if key.beside else ""
        lines.append(f"{key.name} = {values.pop(key.name)!r}{beside}")
    return "\n".join(lines + [f"{name} = {value!r}" for name, value in values.items()])


def differences(config: ConfigDict, base: ConfigDict) -> str:
    """A line for each key in which two configs differ, with both values; names are ignored."""
    ours, theirs = values_of(config), values_of(base)
    lines = []
    for name in dict.fromkeys([*theirs, *ours]):
        here, there = (repr(v[name]) if name in v else ABSENT for v in (ours, theirs))
        if here != there and name not in ("name", "preset"):
            lines.append(f"{name} = {here}  # {base.name}:{base.preset} has {there}")
    return "\n".join(lines) or f"as {base.name}:{base.preset}"


def listed(config: ConfigDict) -> str:
    """KEY=VALUE for every key, grouped, for --help."""
    groups: dict[str, list[str]] = {}
    for name, value in values_of(config).items():
        group, dot, last = name.rpartition(".")
        groups.setdefault(f"--config.{group}{dot}", []).append(f"{last}={value!r}")
    return "\n".join(
        textwrap.fill(
            " ".join([f"{group}…", *(setting.replace(" ", "\xa0") for setting in settings)]),
            width=100,
            initial_indent="  ",
            subsequent_indent="    ",
            break_long_words=False,
            break_on_hyphens=False,
        ).replace("\xa0", " ")
        for group, settings in groups.items()
    )


def similar_keys(name: str, keys: list[str]) -> list[str]:
    """At most three keys that a user may mean by `name`, those under `train` first.

    They have that name, or a similarly spelt one, or a name that contains its words.
    """
    last = {key: key.rpartition(".")[2] for key in keys}
    same = [key for key in keys if name in (key, last[key])]
    within = [key for key in keys if f"_{name}_" in f"_{last[key]}_"]
    near = difflib.get_close_matches(name, set(last.values()), 1, cutoff=0.75)
    similar = same or [key for key in keys if last[key] in near] or within
    return sorted(similar, key=lambda key: not key.startswith("train."))[:3]


def values_of(config: ConfigDict) -> dict[str, Any]:
    """{dotted key: value}; data.mixtures, whose keys users name, is one value."""
    values = {k: v for k, v in flatten(config).items() if not k.startswith("data.mixtures.")}
    mixtures = config.to_dict().get("data", {}).get("mixtures")
    if mixtures is not None:
        values["data.mixtures"] = mixtures
    return {name: _with_tuples(value) for name, value in values.items()}


def _with_tuples(value: Any) -> Any:
    """A value with tuples instead of lists, which JSON has."""
    if isinstance(value, dict):
        return {key: _with_tuples(inner) for key, inner in value.items()}
    return tuple(map(_with_tuples, value)) if isinstance(value, list | tuple) else value
