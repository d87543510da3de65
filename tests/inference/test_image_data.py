"""Data of the command line: digits, and MNIST's file format."""

import gzip
import re
import struct

import numpy as np
import pytest
import torch

from l0bayes.errors import DataError
from l0bayes.inference.data import datasets as data_module
from l0bayes.inference.data.datasets import load_data, read_idx

SHAPE = (5, 4, 3)


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, SHAPE, dtype=np.uint8)


def idx(values, kind=8, sizes=None):
    """An idx file's bytes."""
    sizes = values.shape if sizes is None else sizes
    return struct.pack(f">HBB{len(sizes)}I", 0, kind, len(sizes), *sizes) + values.tobytes()


def write(path, content):
    path.write_bytes(content)
    return path


# -- digits -------------------------------------------------------------------------------------------------


def test_digits():
    digits = load_data("digits")
    assert [len(part) for part in (digits.train, digits.validation, digits.test)] == [1237, 200, 360]
    assert digits.image_shape == (8, 8)
    assert digits.classes == 10
    for part in (digits.train, digits.validation, digits.test):
        assert part.x.shape == (len(part), 8, 8)
        assert part.x.dtype == torch.float32
        assert part.y.dtype == torch.int64
        assert part.x.min() == 0
        assert part.x.max() == 1
        assert part.y.unique().tolist() == list(range(10))


def test_digits_are_split_without_overlap():
    from sklearn.datasets import load_digits  # noqa: PLC0415 (heavy)

    digits = load_data("digits")
    parts = [
        torch.cat([part.x.flatten(1), part.y[:, None]], 1) for part in (digits.train, digits.validation, digits.test)
    ]
    original = load_digits()
    expected = torch.cat([torch.tensor(original.data) / 16, torch.tensor(original.target)[:, None]], 1)
    rows = torch.cat(parts).tolist()
    assert sorted(rows) == sorted(expected.float().tolist())


def test_digits_are_the_same_for_every_seed():
    torch.manual_seed(1)
    one = load_data("digits")
    state = torch.get_rng_state()
    torch.manual_seed(2)
    other = load_data("digits")
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state)  # nothing was drawn
    assert torch.equal(one.train.x, other.train.x)
    assert torch.equal(one.test.y, other.test.y)


def test_an_unknown_name():
    with pytest.raises(DataError, match="data must be one of digits, mnist, cifar10, cifar100, folder; got 'cifar'"):
        load_data("cifar")


# -- idx files ----------------------------------------------------------------------------------------------


def test_a_file_comes_back_as_it_was(pixels, tmp_path):
    values = read_idx(write(tmp_path / "plain", idx(pixels)), SHAPE)
    assert values.dtype == np.uint8
    assert np.array_equal(values, pixels)
    values[:] = 0  # writable: torch would warn otherwise


def test_a_gzipped_file(pixels, tmp_path):
    path = write(tmp_path / "file.gz", gzip.compress(idx(pixels)))
    assert np.array_equal(read_idx(path, SHAPE), pixels)


def damaged_files():
    whole = idx(np.zeros(SHAPE, np.uint8))
    yield "empty", b""
    yield "only zeros", bytes(100)
    yield "in the magic number", whole[:3]
    yield "in the sizes", whole[:9]
    yield "without pixels", whole[:16]
    yield "one byte short", whole[:-1]
    yield "one byte long", whole + b"\0"
    yield "signed bytes", idx(np.zeros(SHAPE, np.uint8), kind=9)
    yield "wrong magic", b"\1\1" + whole[2:]
    yield "other sizes", idx(np.zeros(SHAPE, np.uint8), sizes=(4, 5, 3))
    yield "fewer dimensions", idx(np.zeros(60, np.uint8))
    yield "an HTML page", b"<!DOCTYPE html><html><body>404 Not Found</body></html>"


@pytest.mark.parametrize("content", [pytest.param(content, id=name) for name, content in damaged_files()])
def test_a_damaged_file(content, tmp_path):
    path = write(tmp_path / "file", content)
    with pytest.raises(DataError, match=re.escape(str(path)) + ".*truncated or corrupt.*fetch it again"):
        read_idx(path, SHAPE)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_damaged_gzipped_file(share, pixels, tmp_path):
    content = gzip.compress(idx(pixels))
    path = write(tmp_path / "file.gz", content[: int(share * len(content))])
    with pytest.raises(DataError, match=re.escape(str(path))):
        read_idx(path, SHAPE)


def test_a_gzipped_file_with_flipped_bits(pixels, tmp_path):
    content = gzip.compress(idx(pixels))
    for position in range(10, len(content) - 9):  # behind the header; the last byte of the data may be padding
        broken = content[:position] + bytes([content[position] ^ 0x10]) + content[position + 1 :]
        with pytest.raises(DataError, match=r"file\.gz"):
            read_idx(write(tmp_path / "file.gz", broken), SHAPE)


def test_a_missing_file(tmp_path):
    with pytest.raises(DataError, match="nowhere"):
        read_idx(tmp_path / "nowhere", SHAPE)


# -- MNIST --------------------------------------------------------------------------------------------------


@pytest.fixture
def tiny_mnist(monkeypatch, tmp_path):
    """MNIST's four files with 5,006 and 4 images of 2 × 3 pixels; the i-th training image is i in base 256."""
    sizes = {
        "train-images-idx3-ubyte": (5_006, 2, 3),
        "train-labels-idx1-ubyte": (5_006,),
        "t10k-images-idx3-ubyte": (4, 2, 3),
        "t10k-labels-idx1-ubyte": (4,),
    }
    monkeypatch.setattr(data_module, "_MNIST_FILES", sizes)
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, shape in sizes.items():
        number = np.arange(shape[0])
        values = (number % 10).astype(np.uint8)
        if len(shape) > 1:
            values = np.zeros(shape, np.uint8)
            values[:, 0, 0], values[:, 0, 1] = number // 256, number % 256
        write(raw / name, idx(values))
    return tmp_path


def test_mnist(tiny_mnist):
    mnist = load_data("mnist", tiny_mnist)
    assert [len(part) for part in (mnist.train, mnist.validation, mnist.test)] == [6, 5_000, 4]
    assert mnist.image_shape == (2, 3)
    numbers = []
    for part in (mnist.train, mnist.validation, mnist.test):
        pixels = (part.x * 255).round().long()
        numbers.append(256 * pixels[:, 0, 0] + pixels[:, 0, 1])
        assert torch.equal(numbers[-1] % 10, part.y)  # every image with its own label
        assert part.x.max() <= 1
    assert sorted(torch.cat(numbers[:2]).tolist()) == list(range(5_006))
    assert numbers[2].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("name", ["train-labels-idx1-ubyte", "t10k-labels-idx1-ubyte"])
def test_a_label_out_of_range(name, tiny_mnist):
    path = tiny_mnist / "MNIST" / "raw" / name
    path.write_bytes(path.read_bytes()[:-1] + b"\x0a")
    with pytest.raises(DataError, match=r"label files.*outside 0 to 9"):
        load_data("mnist", tiny_mnist)


def test_a_missing_folder(tmp_path):
    with pytest.raises(DataError, match=r"nowhere.*lacks train-images-idx3-ubyte.*--download true"):
        load_data("mnist", tmp_path / "nowhere")


def test_one_missing_file(tiny_mnist):
    (tiny_mnist / "MNIST" / "raw" / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match=r"raw lacks t10k-labels-idx1-ubyte\. Point"):
        load_data("mnist", tiny_mnist)


def test_a_truncated_file(tiny_mnist):
    path = tiny_mnist / "MNIST" / "raw" / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(DataError, match="train-images-idx3-ubyte is truncated or corrupt"):
        load_data("mnist", tiny_mnist)
