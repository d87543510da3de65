"""Data sets for the command line: scikit-learn's digits, which need no download, MNIST, and colour images."""

import gzip
import math
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from l0bayes.errors import DataError

DataName = Literal["digits", "mnist", "cifar10", "cifar100", "folder"]

_IDX_UNSIGNED_BYTE = 8
_MNIST_FILES = {
    "train-images-idx3-ubyte": (60_000, 28, 28),
    "train-labels-idx1-ubyte": (60_000,),
    "t10k-images-idx3-ubyte": (10_000, 28, 28),
    "t10k-labels-idx1-ubyte": (10_000,),
}


@dataclass(frozen=True)
class Split:
    """Images and their class numbers.

    Grey ones are scaled to [0, 1], of shape ``(rows, height, width)``, or ``(rows, 1, height, width)`` for
    convolutions. Coloured ones are standardised, of shape ``(rows, 3, height, width)``.
    """

    x: Tensor
    y: Tensor

    def __len__(self) -> int:
        return len(self.x)


@dataclass(frozen=True)
class ImageData:
    """A data set in three parts: to learn from, to choose by, and to report."""

    train: Split
    validation: Split
    test: Split

    @property
    def image_shape(self) -> tuple[int, int]:
        """Height and width of an image."""
        height, width = self.train.x.shape[-2:]
        return height, width

    def with_channels(self) -> "ImageData":
        """The same images, grey ones with a dimension for their one channel, as convolutions take them."""
        if self.train.x.dim() == 4:  # noqa: PLR2004 (they have one)
            return self
        return ImageData(*(Split(s.x.unsqueeze(1), s.y) for s in (self.train, self.validation, self.test)))

    @property
    def features(self) -> int:
        """Numbers an image."""
        return self.train.x[0].numel()

    @property
    def classes(self) -> int:
        """Number of classes."""
        return int(self.train.y.max()) + 1


def load_data(name: DataName, data_dir: str | Path = "data", *, download: bool = False) -> ImageData:
    """Loads a data set.

    Args:
        name: ``"digits"`` (1,797 images of 8 × 8, bundled with scikit-learn), ``"mnist"`` (70,000 of 28 × 28),
            ``"cifar10"`` or ``"cifar100"`` (60,000 of 32 × 32, coloured), or ``"folder"``.
        data_dir: where the data are, in torchvision's layout, such as ``data_dir/MNIST/raw``; a ``"folder"`` holds
            ``train/CLASS/image`` and ``test/CLASS/image``.
        download: whether torchvision may download what is missing.

    Returns:
        The data; the validation part is taken from the training images, the same for every seed.

    Raises:
        DataError: if the name is unknown, or a file is missing, truncated or corrupt.
    """
    if name not in get_args(DataName):
        raise DataError(f"data must be one of {', '.join(get_args(DataName))}; got {name!r}")
    if name == "digits":
        return _digits()
    if name == "mnist":
        return _mnist(Path(data_dir), download=download)
    from l0bayes.inference.data import color_images  # noqa: PLC0415 (only needed here)

    root = Path(data_dir)
    raw = color_images.load_folder(root) if name == "folder" else color_images.load_cifar(name, root, download=download)
    return ImageData(*(Split(x, y) for x, y in color_images.standardised(*raw)))


def _digits() -> ImageData:
    from sklearn.datasets import load_digits  # noqa: PLC0415 (heavy, and only needed here)

    digits = load_digits()
    x = torch.from_numpy(digits.images).float() / 16
    y = torch.from_numpy(digits.target).long()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    test, validation, train = order.split([360, 200, len(x) - 560])
    return ImageData(*(Split(x[part], y[part]) for part in (train, validation, test)))


def _mnist(root: Path, *, download: bool) -> ImageData:
    raw = root / "MNIST" / "raw"
    missing = [name for name in _MNIST_FILES if not (raw / name).is_file()]
    if missing and not download:
        raise DataError(
            f"data_dir: {raw} lacks {', '.join(missing)}. Point data_dir at a folder that holds MNIST/raw, or allow "
            "the download with --download true"
        )
    if missing:
        from torchvision.datasets import MNIST  # noqa: PLC0415 (heavy, and only needed here)

        try:
            MNIST(str(root), download=True)
        except (RuntimeError, OSError) as error:
            raise DataError(
                f"data_dir: MNIST could not be fetched into {root} ({error}). Put MNIST/raw there"
            ) from error
    arrays = [torch.from_numpy(read_idx(raw / name, shape)) for name, shape in _MNIST_FILES.items()]
    x, y, test_x, test_y = (a.float() / 255 if a.dim() > 1 else a.long() for a in arrays)
    if any(int(labels.max()) > 9 for labels in (y, test_y)):  # noqa: PLR2004
        raise DataError(f"data_dir: the label files in {raw} hold numbers outside 0 to 9; they are corrupt")
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    validation, train = order.split([5_000, len(x) - 5_000])
    return ImageData(Split(x[train], y[train]), Split(x[validation], y[validation]), Split(test_x, test_y))


def read_idx(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Reads an idx file of unsigned bytes, plain or gzipped.

    Args:
        path: the file.
        shape: the shape it must have.

    Returns:
        An array of ``uint8`` of that shape.

    Raises:
        DataError: if the file is truncated, too long, or not such an idx file.
    """
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
        zeros, kind, dimensions = struct.unpack(">HBB", content[:4])
        sizes = struct.unpack(f">{dimensions}I", content[4 : 4 + 4 * dimensions])
    except (struct.error, EOFError, OSError, zlib.error) as error:
        raise DataError(f"data_dir: {path} is truncated or corrupt ({error}). Remove it and fetch it again") from error
    body = content[4 + 4 * dimensions :]
    if zeros != 0 or kind != _IDX_UNSIGNED_BYTE or sizes != shape or len(body) != math.prod(shape):
        raise DataError(
            f"data_dir: {path} is truncated or corrupt: its header says {sizes}, it holds {len(body)} bytes, and "
            f"{shape} is needed. Remove it and fetch it again"
        )
    return np.frombuffer(body, np.uint8).reshape(shape).copy()
