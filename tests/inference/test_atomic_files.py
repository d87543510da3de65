"""Files that are there as a whole or not at all."""

import errno
import os
from pathlib import Path

import pytest
import torch

from l0bayes.inference.storage.files import read_tensors, write_bytes, write_tensors


def fail(*_args, **_kwargs):
    raise OSError(errno.ENOSPC, "no space left on device")


class HalfWritten:
    """A file on a disk that fills up."""

    def __init__(self, handle, mode):
        self.file = open(handle, mode, buffering=0)  # noqa: SIM115, PTH123 (closed below; a handle has no path)

    def __enter__(self):
        return self

    def __exit__(self, *_error):
        self.file.close()

    def write(self, content):
        self.file.write(content[: len(content) // 2])
        fail()


BREAKAGES = pytest.mark.parametrize(
    "breakage",
    [(os, "fsync", fail), (Path, "replace", fail), (Path, "chmod", fail), (os, "fdopen", HalfWritten)],
    ids=["fsync", "replace", "chmod", "half written"],
)


@BREAKAGES
def test_a_failure_leaves_the_old_file_and_nothing_else(breakage, tmp_path, monkeypatch):
    path = write_bytes(tmp_path / "file", b"old")
    monkeypatch.setattr(*breakage)
    with pytest.raises(OSError, match="no space left"):
        write_bytes(path, b"new and longer")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


@BREAKAGES
def test_a_failure_leaves_nothing_where_nothing_was(breakage, tmp_path, monkeypatch):
    monkeypatch.setattr(*breakage)
    with pytest.raises(OSError, match="no space left"):
        write_tensors(tmp_path / "file", {"a": torch.zeros(2)}, {"kind": "test"})
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_while_writing_leaves_no_temporary_file(tmp_path, monkeypatch):
    def interrupted(_handle):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_bytes(tmp_path / "file", b"new")
    assert list(tmp_path.iterdir()) == []


def test_the_file_is_complete_before_it_has_its_name(tmp_path, monkeypatch):
    path = write_bytes(tmp_path / "file", b"old")
    seen = []
    replace = Path.replace

    def looking(source, target):
        seen.append((source.read_bytes(), source.parent, Path(target).read_bytes()))
        return replace(source, target)

    monkeypatch.setattr(Path, "replace", looking)
    write_bytes(path, b"new")
    assert seen == [(b"new", tmp_path, b"old")]
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600), (0o002, 0o664)])
def test_permissions_are_those_of_any_new_file(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        path = write_bytes(tmp_path / "file", b"new")
        assert os.umask(umask) == umask  # as it was
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == mode


def test_tensors_come_back_as_they_were(tmp_path):
    tensors = {
        "float32": torch.randn(3, 4),
        "float64": torch.randn(2, dtype=torch.float64),
        "int64": torch.arange(5),
        "bool": torch.tensor([True, False]),
        "scalar": torch.tensor(3.5),
        "empty": torch.zeros(0, 7),
        "transposed": torch.randn(3, 4).T,
        "not a number": torch.tensor([torch.nan, torch.inf, -0.0]),
        "learned": torch.randn(2, requires_grad=True),
    }
    tensors["shared"] = tensors["float32"]
    known = {"kind": "test", "numbers": [1, 2.5, None], "text": "λ"}
    path = write_tensors(tmp_path / "file", tensors, known)
    stored, facts = read_tensors(path, "test")
    assert facts | known == facts
    assert stored.keys() == tensors.keys()
    for name, tensor in tensors.items():
        expected = tensor.detach()
        assert stored[name].dtype == expected.dtype
        torch.testing.assert_close(stored[name], expected, rtol=0, atol=0, equal_nan=True)


def test_a_folder_is_not_a_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no file"):
        read_tensors(tmp_path, "test")
