"""Digests of tensors, by which a change of a single bit is seen."""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

_BYTES = 16  # 128 bits: against accidents


def tensor_digest(tensors: Iterable[Tensor]) -> str:
    """A digest of the shapes, types and bits of some tensors, in their order."""
    return content_digest("", {str(number): tensor for number, tensor in enumerate(tensors)})


def content_digest(text: str, tensors: Mapping[str, Tensor]) -> str:
    """A digest of a text and of tensors with their names, shapes, types and bits; in whatever order they come."""
    total = hashlib.blake2b(text.encode(), digest_size=_BYTES)
    for name in sorted(tensors):
        tensor = tensors[name]
        total.update(f"\n{name!r} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        total.update(_raw(tensor))
    return total.hexdigest()


def _raw(tensor: Tensor) -> memoryview:
    """The bits of a tensor in the order of its rows, wherever it is and however it lies."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    if not flat.numel():
        return memoryview(b"")
    bits: Any = flat.view(torch.uint8).numpy()
    return memoryview(bits)
