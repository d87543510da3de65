"""Augmentation of whole batches of images in memory."""

import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)
from torch import Tensor


def shifted(x: Tensor, pixels: int, *, flip: bool = False) -> Tensor:
    """Each image moved by up to so many pixels up or down and left or right, at random; zeros move in.

    With 4 pixels and mirror images this is the usual augmentation of CIFAR (Zagoruyko & Komodakis 2016,
    arXiv 1605.07146, §3), for all images of a batch at once.

    Args:
        x: images of shape ``(batch, …, height, width)``.
        pixels: the largest shift, ≥ 0.
        flip: whether every other image, at random, is mirrored left to right.

    Returns:
        Images of the same shape.
    """
    images = x.reshape(len(x), -1, *x.shape[-2:])
    rows, channels, height, width = images.shape
    down, right = torch.randint(2 * pixels + 1, (2, rows, 1), device=x.device)
    vertical = down + torch.arange(height, device=x.device)
    horizontal = right + torch.arange(width, device=x.device)
    if flip:
        mirrored = torch.rand(rows, 1, device=x.device) < 0.5  # noqa: PLR2004 (a fair coin)
        horizontal = torch.where(mirrored, horizontal.flip(1), horizontal)
    which = torch.arange(rows, device=x.device)[:, None, None, None]
    channel = torch.arange(channels, device=x.device)[:, None, None]
    moved = F.pad(images, [pixels] * 4)[which, channel, vertical[:, None, :, None], horizontal[:, None, None, :]]
    return moved.reshape(x.shape)
