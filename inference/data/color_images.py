"""Colour images in memory: CIFAR through torchvision, and any folder of images that its ``ImageFolder`` reads."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from l0bayes.errors import DataError

_FEWEST = 10  # images to train on
_HELD_OUT = 0.1  # of the training images, for validation

Raw = tuple[Tensor, Tensor]  # images as bytes, (rows, height, width, 3), and class numbers


def load_cifar(name: str, root: Path, *, download: bool) -> tuple[Raw, Raw]:
    """CIFAR-10 or CIFAR-100.

    Args:
        name: ``"cifar10"`` or ``"cifar100"``.
        root: where torchvision keeps it.
        download: whether torchvision may fetch what is missing.

    Returns:
        Training and test images.

    Raises:
        DataError: if it is missing or corrupt.
    """
    from torchvision import datasets  # noqa: PLC0415 (heavy, and only needed here)

    kind = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    try:
        parts = [kind(str(root), train=train, download=download) for train in (True, False)]
    except (RuntimeError, OSError) as error:
        raise DataError(
            f"data_dir: no {name} in {root} ({error}). Point data_dir at the folder that holds it, or allow the "
            "download with --download true"
        ) from error
    train, test = ((torch.from_numpy(np.asarray(part.data)), torch.tensor(part.targets)) for part in parts)
    return train, test


def load_folder(root: Path) -> tuple[Raw, Raw]:
    """A tree ``root/train/CLASS/image`` and ``root/test/CLASS/image``, all images of one size.

    Args:
        root: the folder.

    Returns:
        Training and test images.

    Raises:
        DataError: if a part is missing, the classes or sizes differ, or an image cannot be read.
    """
    train, test = (_read_tree(root / part) for part in ("train", "test"))
    if train[1] != test[1]:
        raise DataError(f"data_dir: train and test in {root} have different classes: {train[1]} and {test[1]}")
    if train[0][0].shape[1:] != test[0][0].shape[1:]:
        raise DataError(f"data_dir: images in {root} must be of one size; train and test differ")
    return train[0], test[0]


def _read_tree(folder: Path) -> tuple[Raw, Sequence[str]]:
    from torchvision.datasets import ImageFolder  # noqa: PLC0415 (heavy, and only needed here)

    try:
        tree: Any = ImageFolder(str(folder))
    except (FileNotFoundError, OSError) as error:
        raise DataError(
            f"data_dir: {folder} holds no images in folders of their class ({error}). It takes train/CLASS/… and "
            "test/CLASS/…"
        ) from error
    images: list[Tensor] = []
    for path, _ in tree.samples:
        try:
            image = torch.from_numpy(np.array(tree.loader(path)))
        except OSError as error:
            raise DataError(f"data_dir: {path} cannot be read ({error})") from error
        if images and image.shape != images[0].shape:
            raise DataError(
                f"data_dir: images must be of one size; {path} is {tuple(image.shape[:2])}, the first one "
                f"{tuple(images[0].shape[:2])}"
            )
        images.append(image)
    return (torch.stack(images), torch.tensor(tree.targets)), tree.classes


def standardised(train: Raw, test: Raw) -> tuple[tuple[Tensor, Tensor], ...]:
    """Images in float, with mean 0 and variance 1 a colour over the training images; some held out for validation.

    Args:
        train: training images as bytes.
        test: test images as bytes.

    Returns:
        Images of shape ``(rows, 3, height, width)`` and class numbers, for training, validation and test. Which
        images are held out is the same for every seed.
    """
    if len(train[0]) < _FEWEST:
        raise DataError(f"data_dir: {len(train[0])} training images are too few; a tenth of them is for validation")
    order = torch.randperm(len(train[0]), generator=torch.Generator().manual_seed(0))
    validation, rest = order.split([round(_HELD_OUT * len(order)), len(order) - round(_HELD_OUT * len(order))])
    x = train[0].permute(0, 3, 1, 2).float() / 255
    mean, scale = x[rest].mean((0, 2, 3), keepdim=True), x[rest].std((0, 2, 3), keepdim=True).clamp(min=1e-6)
    x = (x - mean) / scale
    y, test_x = train[1].long(), (test[0].permute(0, 3, 1, 2).float() / 255 - mean) / scale
    return (x[rest], y[rest]), (x[validation], y[validation]), (test_x, test[1].long())
