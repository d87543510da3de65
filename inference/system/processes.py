"""The processes that train one network together, as ``torchrun`` starts them; or the only one."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from l0bayes.arguments import checked

_c10d: Any = dist  # which exports some of its documented names at run time only


@checked
def join_processes(device: str = "cpu") -> None:
    """Joins the others if ``torchrun`` started this process; otherwise nothing happens.

    Args:
        device: what is trained on; ``"cuda"`` talks through NCCL, everything else through Gloo.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        store, rank, size = next(_c10d.rendezvous("env://"))
        # After a restart the store still knows where the processes were before it, and some would look there.
        attempt = _c10d.PrefixStore(f"attempt_{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
        backend = "nccl" if device.startswith("cuda") else "gloo"
        dist.init_process_group(backend, store=attempt, rank=rank, world_size=size)


class Processes:
    """The processes that are joined, as a run sees them.

    Attributes:
        rank: number of this one.
        size: how many there are.
    """

    def __init__(self) -> None:
        joined = dist.is_available() and dist.is_initialized()
        self.rank = dist.get_rank() if joined else 0
        self.size = dist.get_world_size() if joined else 1

    @property
    def first(self) -> bool:
        """Whether this is the one that writes files and shows progress."""
        return self.rank == 0

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module with gradients that are averaged over all processes.

        Unused parameters are looked for in each step: fine-tuning has no gradient for gates.
        """
        if self.size == 1:
            return module
        parallel: nn.Module = DistributedDataParallel(module, find_unused_parameters=True)
        return parallel

    def mean(self, *values: float) -> list[float]:
        """The average of each number over all processes."""
        if self.size == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64, device=self._device)
        dist.all_reduce(total)
        return [value / self.size for value in total.tolist()]

    def of_first(self, value: float) -> float:
        """The number that the first process has."""
        if self.size == 1:
            return value
        shared = torch.tensor(value, dtype=torch.float64, device=self._device)
        dist.broadcast(shared, 0)
        return float(shared)

    def wait(self) -> None:
        """Waits until all processes are here."""
        if self.size > 1:
            dist.barrier()

    @property
    def _device(self) -> torch.device:
        return torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")

    @contextmanager
    def independent_draws(self, *, active: bool) -> Iterator[None]:
        """Within it, if active, random numbers of this process's own; after it, those that all have in common."""
        if self.size == 1 or not active:
            yield
            return
        seed = int(torch.randint(2**62, ()))
        with torch.random.fork_rng():
            torch.manual_seed(seed + self.rank)
            yield
