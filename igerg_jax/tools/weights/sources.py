"""Files of tensors, read one tensor at a time. Nothing in them is executed.

safetensors and npz hold no code (npz with pickled objects is refused). PyTorch's files are pickles:
they are read by torch's `weights_only` loader, which accepts only tensors and plain containers, and
for fairseq's files also `argparse.Namespace`, a container of values.
"""

import argparse
import dataclasses
import pathlib
import warnings
import zipfile
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import safetensors

from igerg_jax import storage
from igerg_jax.errors import UserError

SAFETENSORS, INDEX, PICKLE = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
)


@dataclasses.dataclass
class Source:
    """Named tensors on disk.

    Attributes:
      path: the folder or file.
      shapes: {name in the file: shape} of every tensor.
      read: reads one tensor, by name, as it is stored; raises UserError if it is damaged.
      config: the model's own config.json (or fairseq's `args`); {} = there is none.
      processor: its preprocessor_config.json; {} = there is none.
    """

    path: pathlib.Path
    shapes: dict[str, tuple[int, ...]]
    read: Callable[[str], np.ndarray]
    config: dict[str, Any]
    processor: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def folder(self) -> pathlib.Path:
        return self.path if self.path.is_dir() else self.path.parent


def open_source(path: str, download: str) -> Source:
    """Opens a Hugging Face folder, or a .safetensors, .npz, .pt, .pth or .bin file.

    Args:
      download: a suggestion of what to download, for the message if nothing is there.

    Raises:
      UserError: nothing there, or a file is corrupt, truncated, or holds more than tensors.
    """
    location = storage.local_path(path)
    if not location.exists():
        raise UserError(
            f"there is no '{path}'. Nothing is fetched from the network: download the weights "
            f"first ({download}) and name the folder or file that holds them"
        )
    openers = {".safetensors": _safetensors, ".npz": _npz}
    openers |= dict.fromkeys((".pt", ".pth", ".bin"), _torch)
    if not location.is_dir() and location.suffix not in openers:
        raise UserError(f"'{path}' is not a folder or a file of {', '.join(openers)}")
    files = _tensor_files(location, download) if location.is_dir() else [location]
    for file in files:
        storage.check_regular_file(file)
    shapes, where, read, config = openers[files[0].suffix](files)

    def guarded_read(name: str) -> np.ndarray:
        try:
            return read(name)
        except Exception as error:  # zlib's and torch's errors too
            raise UserError(
                f"'{where(name)}': {name} cannot be read: it is damaged, or of a kind that is not "
                f"read here, as 8-bit, quantised and sparse ones are ({_reason(error)})"
            ) from error

    source = Source(location, shapes, guarded_read, config)
    if location.suffix not in (
        ".npz",
        ".pt",
        ".pth",
    ):  # a config.json beside these is another model's
        source.config = source.config or _json_if_any(source.folder / "config.json")
        source.processor = _processor(source.folder)
    return source


def _processor(folder: pathlib.Path) -> dict[str, Any]:
    """The settings of the image processor. Raises UserError where they are no object."""
    # Transformers 5 writes the settings of all processors into one file.
    path = folder / "processor_config.json"
    joint = _json_if_any(path).get("image_processor") or {}
    if not isinstance(joint, dict):
        raise UserError(f"'{path}': its image_processor is not a JSON object")
    return _json_if_any(folder / "preprocessor_config.json") or joint


def _tensor_files(folder: pathlib.Path, download: str) -> list[pathlib.Path]:
    for name in (SAFETENSORS, INDEX, PICKLE):
        if (folder / name).exists():
            return _parts(folder) if name == INDEX else [folder / name]
    raise UserError(
        f"'{folder}' has no {SAFETENSORS}, {INDEX} or {PICKLE}; download them ({download})"
    )


def _parts(folder: pathlib.Path) -> list[pathlib.Path]:
    """The files that the index names, which must be in `folder` itself."""
    where = _json(folder / INDEX).get("weight_map")
    names = set(where.values()) if isinstance(where, dict) else {None}
    for name in names:
        if not isinstance(name, str) or pathlib.PurePath(name).name != name:
            raise UserError(f"'{folder / INDEX}' has no weight_map of files beside it ({name!r})")
    missing = sorted(name for name in names if not (folder / name).exists())
    if missing:
        raise UserError(f"'{folder}' lacks {', '.join(missing)}, which {INDEX} names")
    return [folder / name for name in sorted(names)]


def _json_if_any(path: pathlib.Path) -> dict[str, Any]:
    return _json(path) if path.exists() else {}


def _json(path: pathlib.Path) -> dict[str, Any]:
    storage.check_regular_file(path)
    try:
        content = storage.from_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read '{path}': {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"'{path}' is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"'{path}' is not a JSON object")
    return content


# What the openers return: (shapes, tensor's name -> its file, tensor's name -> array, config).
Opened = tuple[
    dict[str, tuple[int, ...]],
    Callable[[str], pathlib.Path],
    Callable[[str], np.ndarray],
    dict[str, Any],
]


def _safetensors(paths: list[pathlib.Path]) -> Opened:
    shapes, where = {}, {}
    for path in paths:
        try:
            with safetensors.safe_open(path, "np") as file:
                for name in file.keys():  # noqa: SIM118 (it is not a dict)
                    shapes[name] = tuple(file.get_slice(name).get_shape())
                    where[name] = path
        except (safetensors.SafetensorError, OSError) as error:
            raise _corrupt(path, error) from error

    def read(name: str) -> np.ndarray:
        # Reopened each time: pages that were read do not stay mapped.
        with safetensors.safe_open(where[name], "np") as file:
            return file.get_tensor(name)

    return shapes, where.get, read, {}


def _npz(paths: list[pathlib.Path]) -> Opened:
    (path,) = paths
    try:
        if not zipfile.is_zipfile(path):  # a truncated file has no table of contents
            raise ValueError("not a complete zip file")
        file = np.load(path, allow_pickle=False)
        shapes = {name: _npy_shape(file, name) for name in file.files}
    except Exception as error:  # zlib's errors too
        raise _corrupt(path, error) from error

    def read(name: str) -> np.ndarray:
        x = file[name]
        # NumPy does not know bfloat16 and stores it as untyped two-byte values.
        return x.view(ml_dtypes.bfloat16) if x.dtype == np.dtype("V2") else x

    return shapes, lambda name: path, read, {}


def _npy_shape(file: np.lib.npyio.NpzFile, name: str) -> tuple[int, ...]:
    """The shape, read from the header only. Raises ValueError for pickled objects."""
    with file.zip.open(f"{name}.npy") as member:
        version = np.lib.format.read_magic(member)
        header = {(1, 0): np.lib.format.read_array_header_1_0}.get(
            version, np.lib.format.read_array_header_2_0
        )
        shape, _, dtype = header(member)
    if dtype.hasobject:
        raise ValueError(f"'{name}' holds Python objects, not numbers")
    return shape


def _torch(paths: list[pathlib.Path]) -> Opened:
    (path,) = paths
    try:
        import torch
    except ImportError as error:
        raise UserError(
            f"'{path}' is a PyTorch file; reading it safely needs torch (pip install -r "
            "requirements-parity.txt). A model.safetensors needs nothing more"
        ) from error
    containers = [argparse.Namespace] if path.suffix == ".pt" else []  # fairseq's
    try:
        with torch.serialization.safe_globals(containers), warnings.catch_warnings(action="ignore"):
            # Only zip files can be memory-mapped; before 2020 torch wrote another format.
            mapped = zipfile.is_zipfile(path)
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # torch raises several exception types
        raise _corrupt(path, error) from error
    tensors = content.get("model", content) if isinstance(content, dict) else None
    if (
        not isinstance(tensors, dict)
        or not tensors
        or not all(isinstance(n, str) and isinstance(t, torch.Tensor) for n, t in tensors.items())
    ):
        raise UserError(f"'{path}' is not a dict of tensors by name")
    args = content.get("args") if tensors is not content else None
    config = dict(vars(args)) if isinstance(args, argparse.Namespace) else {}

    def read(name: str) -> np.ndarray:
        tensor = tensors[name].detach()
        return tensor.float().numpy() if tensor.dtype == torch.bfloat16 else tensor.numpy()

    shapes = {n: tuple(t.shape) for n, t in tensors.items()}
    return shapes, lambda name: path, read, config


def _corrupt(path: pathlib.Path, error: Exception) -> UserError:
    return UserError(
        f"'{path}' cannot be read: it is corrupt, truncated, or holds more than tensors "
        f"({_reason(error)}). Nothing in it was executed; download it again"
    )


def _reason(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).split("\n")[0]
