"""Tensors and facts in one file: safetensors with a JSON header. No pickle, written whole or not at all.

Files have had a number of their format and a digest since format 2: what was changed on its way is refused. What an
earlier version wrote has neither, and is read with a warning.
"""

import json
import os
import re
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from l0bayes.errors import FileFormatError
from l0bayes.inference.system.digest import content_digest

_KEY, _DIGEST, _FORMAT = "l0bayes", "digest", "format"
_NOW = 2
_TEMPORARY = ".tmp"


def write_bytes(path: str | Path, content: bytes) -> Path:
    """Writes a file whole or not at all: a crash leaves the old one, or none.

    Args:
        path: where; missing folders are made.
        content: all of it.

    Returns:
        The path.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=_TEMPORARY)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        Path(temporary).chmod(0o666 & ~umask)  # as an ordinary open() would; mkstemp's is private
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path


def leftovers(path: Path) -> list[Path]:
    """Temporary files of :func:`write_bytes` beside a file, of a killed process or of one that is writing now."""
    ours = re.compile(re.escape(f".{path.name}.") + r"\w+" + re.escape(_TEMPORARY))
    return [entry for entry in path.parent.iterdir() if ours.fullmatch(entry.name)]


def write_tensors(path: str | Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> Path:
    """Writes tensors and facts, atomically.

    Args:
        path: where, by custom ``*.safetensors``.
        tensors: name to tensor; copies on the CPU are stored.
        facts: what JSON can hold; ``kind`` says what sort of file it is. A digest of both is stored with them.

    Returns:
        The path.
    """
    stored = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    text = json.dumps({_FORMAT: _NOW, **facts})
    return write_bytes(path, save(stored, metadata={_KEY: text, _DIGEST: content_digest(text, stored)}))


def read_tensors(path: str | Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Reads what :func:`write_tensors` wrote.

    Args:
        path: the file.
        kind: the sort of file that is expected.

    Returns:
        Tensors by name, and the facts.

    Raises:
        FileNotFoundError: if there is no such file.
        FileFormatError: if it is damaged (one bit is enough), not one of ours, of another kind or a later version.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"path: there is no file {path}")
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        facts = json.loads(metadata[_KEY])
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        raise FileFormatError(
            f"path: {path} is damaged, incomplete, or was not written by l0bayes ({error or type(error).__name__})"
        ) from error
    if not isinstance(facts, dict):
        raise FileFormatError(f"path: {path} is damaged or was not written by l0bayes (its facts are no mapping)")
    _check_whole(path, tensors, facts, metadata)
    if facts.get("kind") != kind:
        raise FileFormatError(f"path: {path} holds a {facts.get('kind')}, and a {kind} is needed")
    return tensors, facts


def _check_whole(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any], metadata: Any) -> None:
    """Raises unless what was read is what was written."""
    if _FORMAT not in facts and _DIGEST not in metadata:
        warnings.warn(
            f"path: {path} was written by an earlier version, without a digest: nobody can tell whether it is whole. "
            "Write it again",
            stacklevel=5,
        )
    elif facts.get(_FORMAT) != _NOW:
        raise FileFormatError(
            f"path: {path} is damaged, or of a later version: its format is {facts.get(_FORMAT)}, and {_NOW} is known"
        )
    elif metadata.get(_DIGEST) != content_digest(metadata[_KEY], tensors):
        raise FileFormatError(f"path: {path} is damaged: its digest is not that of what it holds")
