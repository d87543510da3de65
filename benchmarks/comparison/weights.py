"""Single weights taken away: networks that are as small as was asked on paper, and as large as before to compute.

Of all weights of all layers those that deserve least to stay go, along one curve or in rounds; see
:class:`~comparison.masks.WeightSparse` for what is counted.
"""

import torch
from torch import Tensor, nn

from comparison.masks import Masked, SoftThreshold, WeightSparse, Zeros
from comparison.training import Finished, Job, trained

_BEGIN, _END = 1 / 8, 3 / 4  # of the run, between which weights go
_CUTS = 64  # while they do
_SETTINGS = 512  # of what thresholds have in common, in the same time: between them the loss lowers them all
_ROUNDS = 3  # of the lottery, each of which keeps the same share of what the one before has left
_REWOUND = 1 / 20  # of the run, to where weights are set back


def share_by(done: float, share: float) -> float:
    """What is to be left after a share of the run: the cubic curve of Zhu and Gupta 2017 (arXiv 1710.01878, eq. 1)."""
    going = min(1.0, max(0.0, (done - _BEGIN) / (_END - _BEGIN)))
    return share + (1 - share) * (1 - going) ** 3


def gradual(job: Job) -> Finished:
    """Gradual magnitude pruning (Zhu and Gupta 2017): the smallest weights go bit by bit, and stay away."""
    return _along_the_curve(job, Masked, _CUTS)


def soft_threshold(job: Job) -> Finished:
    """Soft threshold weight reparameterisation (STR, Kusupati et al. 2020): each layer learns its threshold.

    In STR the size follows from the weight decay that pulls on all thresholds, and is found by trying. Here what the
    thresholds have in common is set, over and over, to where the curve of gradual pruning is; so the asked share is
    reached in one run, exactly, and how the layers share what is left is learned as in STR.
    """
    return _along_the_curve(job, SoftThreshold, _SETTINGS)


def _along_the_curve(job: Job, kind: type[Zeros], cuts: int) -> Finished:
    """Trains, and cuts meanwhile."""
    sparse = WeightSparse(job.task.build(), kind, job.example, job.task.target)
    steps, share = job.steps, job.task.target.share
    every = max(1, round((_END - _BEGIN) * steps / cuts))

    def cut(step: int) -> None:
        if step % every == 0 and step > _BEGIN * steps:
            sparse.keep(share_by(step / steps, share))

    trained(job, sparse.net, after_step=cut)
    sparse.keep(share)  # of the averages, where they take the place of weights
    return sparse.finished()


def lottery(job: Job) -> Finished:
    """A lottery ticket: trained to the end, pruned by magnitude, set back to weights from early on, and again.

    Frankle et al. 2020 (arXiv 1912.05671), in three rounds of pruning: four times the training of other methods.
    """
    sparse = WeightSparse(job.task.build(), Masked, job.example, job.task.target)
    early: dict[str, Tensor] = {}
    rewound = max(1, round(_REWOUND * job.steps))

    def note(step: int) -> None:
        if step == rewound:
            early.update(_learned(sparse.net))

    trained(job, sparse.net, after_step=note)
    for number in range(1, _ROUNDS + 1):
        sparse.keep(job.task.target.share ** (number / _ROUNDS))
        sparse.net.load_state_dict(early, strict=False)
        trained(job, sparse.net, job.task.options)
    return sparse.finished()


def _learned(net: nn.Module) -> dict[str, Tensor]:
    """A copy of weights and statistics; not of masks, which are not set back."""
    return {name: value.clone() for name, value in net.state_dict().items() if value.dtype != torch.bool}
