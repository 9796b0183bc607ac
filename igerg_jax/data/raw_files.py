"""Which raw files a dataset was prepared from, so that later changes to them can be reported.

<base>/turns/raw_files.json    {file: [bytes, mtime], large or deep folder: [mtime]}
"""

import collections
import itertools
import json
import os
import pathlib
import re
import stat
import sys

from igerg_jax import storage
from igerg_jax.data import builders, image_files
from igerg_jax.data.builders.source import Options

FILE = "raw_files.json"
_MAX_ENTRIES = 1000  # that are looked at in a dataset's folder, at every opening
_MAX_DEPTH = 3  # <split>/<emotion>/<image>

Facts = dict[str, list[int]]


def record(dataset: str, options: Options, turns: pathlib.Path) -> None:
    """Writes `turns`/raw_files.json, unless an earlier call has: finished parts are older."""
    if not (turns / FILE).exists():
        storage.write_text(turns / FILE, json.dumps(facts(dataset, options)) + "\n")


def warn_if_changed(dataset: str, options: Options, turns: pathlib.Path) -> None:
    """Prints a line if the raw files differ from those that `turns` was prepared from.

    Says nothing where there is no record, or where the raw files are gone, as on another machine.
    """
    try:
        before = storage.from_json((turns / FILE).read_text())
    except (OSError, ValueError):
        return
    now = facts(dataset, options)
    if now and now != before:
        names = sorted(name for name in {*now, *before} if now.get(name) != before.get(name))
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        print(
            f"{dataset}: '{names[0]}'{more} in config.data.manual_dir has changed since it was "
            f"prepared: remove '{turns.parent}' to prepare it again",
            file=sys.stderr,
        )


def facts(dataset: str, options: Options) -> Facts:
    """What raw_files.json holds of a dataset; paths are relative to manual_dir."""
    raw, config = builders.find(dataset)
    if combined := raw.combines(config):
        return {k: v for name in combined for k, v in facts(name, options).items()}
    if not raw.reads_manual_dir or not options.manual_dir:
        return {}
    root = storage.local_path(options.manual_dir)
    places = [dataset, dataset.partition("/")[0]]
    if not raw.configs:
        places.append(config)  # `emotion_folder/NAME` reads manual_dir/NAME
    folder = next((root / place for place in places if place and (root / place).is_dir()), root)
    # Others' files may lie in manual_dir itself: there, only what the description names counts.
    words = re.split(r"[^\w.-]+", raw.info.files.lower())
    names = {word.strip(".") for word in words} if folder == root else None
    return _facts(root, folder, names)


def _facts(root: pathlib.Path, top: pathlib.Path, names: set[str] | None) -> Facts:
    found: Facts = {}
    waiting = collections.deque([(top, 1)])
    while waiting:
        folder, depth = waiting.popleft()
        try:
            with os.scandir(folder) as scanned:
                shown = (e for e in scanned if not image_files.is_hidden(e.name))
                if depth == 1 and names is not None:
                    shown = (entry for entry in shown if entry.name.lower() in names)
                entries = [*itertools.islice(shown, _MAX_ENTRIES - len(found) + 1)]
            if len(found) + len(entries) > _MAX_ENTRIES or depth > _MAX_DEPTH:
                # Changes when a file arrives or goes.
                found[f"{folder.relative_to(root)}/"] = [folder.stat().st_mtime_ns]
                continue
        except OSError:
            continue
        for entry in sorted(entries, key=lambda entry: entry.name):
            path = folder / entry.name
            try:
                status = entry.stat()
            except OSError:  # a link that leads nowhere
                continue
            if stat.S_ISDIR(status.st_mode):
                waiting.append((path, depth + 1))
            else:
                found[str(path.relative_to(root))] = [status.st_size, status.st_mtime_ns]
    return found
