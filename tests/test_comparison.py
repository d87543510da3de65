"""The methods of ``benchmarks/comparison``: zeros that hold, sizes that are what is said, what units are ranked by."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)
from torch import nn

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

from comparison import weights
from comparison.masks import Masked, SoftThreshold, WeightSparse
from comparison.tasks import Data, Task, reset
from comparison.training import Job, trained

from l0bayes.inference import FitOptions, Target
from l0bayes.inference.data.datasets import Split
from l0bayes.models import MLP, LeNet5


class Convolutions(nn.Module):
    """4 × 4 images; the first layer multiplies at 4 places, the shortcut at 16, the last layer at one."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv2d(2, 6, 3, stride=2, padding=1), nn.BatchNorm2d(6)
        self.second, self.last = nn.Conv2d(2, 6, 1, bias=False), nn.Linear(12, 3)

    def forward(self, x):
        first, second = self.norm(self.first(x)).relu(), self.second(x).relu()
        return self.last(torch.cat((first.mean((2, 3)), second.mean((2, 3))), 1))


def job(build, shape, of, share=0.2, **options):
    x = torch.randn(64, *shape)
    split = Split(x, torch.arange(64) % 3)
    settings = FitOptions(**{"epochs": 8, "lr": 0.01, "schedule": "late_cosine", **options})
    task = Task(None, build, reset, "unit", Target(share, of), settings, 8, lambda images: images, 3)
    return Job(task, Data(split, split, split))


ADAM = {"ema": 0.9}
SGD = {"optimizer": "sgd", "weight_decay": 1e-2, "bf16": True, "channels_last": True}
JOBS = {
    "parameters, Adam, average": lambda: job(lambda: MLP(12, 20, 10, 3), (12,), "parameters", **ADAM),
    "macs, SGD, bfloat16": lambda: job(Convolutions, (2, 4, 4), "macs", **SGD),
}


@pytest.fixture(params=JOBS)
def task(request):
    return JOBS[request.param]()


def counted(net, of):
    """What a network has, counted another way: layer by layer, from the weights that it ended with."""
    places = {"first": 4, "second": 16} if of == "macs" else {}
    total = 0
    for name, module in net.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            there = (module.weight != 0).flatten(1)
            total += int(there.sum()) * places.get(name, 1)
            total += int(there.any(1).sum()) if of == "parameters" and module.bias is not None else 0
    return total


@pytest.mark.parametrize("method", [weights.gradual, weights.soft_threshold, weights.lottery])
def test_single_weights_are_as_many_as_was_asked(method, task):
    finished = method(task)
    of, share = task.task.target.of, task.task.target.share
    full = counted(task.task.build(), of)
    assert type(finished.net) is type(task.task.build())
    assert not any(hasattr(module, "parametrizations") for module in finished.net.modules())
    assert finished.share == pytest.approx(counted(finished.net, of) / full)
    assert share - 18 / full < finished.share < share + 1 / full  # the best of the rest did not fit
    assert finished.weights == sum(int((value != 0).sum()) for value in finished.net.parameters())


def test_what_is_masked_stays_zero_through_momentum_and_averages(task):
    net = task.task.build()
    sparse = WeightSparse(net, Masked, task.example, task.task.target)
    before = {}

    def cut(step):
        for name, mask in before.items():
            assert not (net.get_submodule(name).weight[~mask] != 0).any()
        if step % 5 == 0:
            sparse.keep(weights.share_by(step / task.steps, 0.2))
            before.update({name: it.weight != 0 for name, it in net.named_modules() if hasattr(it, "parametrizations")})

    trained(task, net, after_step=cut)
    assert before
    zeros = sum(int((~mask).sum()) for mask in before.values())
    finished = sparse.finished().net
    assert all(not (finished.get_submodule(name).weight[~mask] != 0).any() for name, mask in before.items())
    assert zeros > 0.5 * sum(mask.numel() for mask in before.values())


def test_the_largest_weights_of_the_whole_network_stay():
    net = MLP(6, 8, 3)
    every = torch.cat([p.detach().abs().flatten() for p in net.parameters() if p.dim() > 1])
    sparse = WeightSparse(net, Masked, torch.randn(2, 6), Target(0.3))
    sparse.keep(0.3)
    kept = torch.cat([p.detach().flatten() for p in sparse.finished().net.parameters() if p.dim() > 1])
    assert set(kept[kept != 0].abs().tolist()) == set(every.topk(int((kept != 0).sum())).values.tolist())


def test_a_unit_without_weights_has_no_bias():
    net = MLP(6, 8, 3)
    with torch.no_grad():
        net.fc1.weight[:4] *= 1e-3
    sparse = WeightSparse(net, Masked, torch.randn(2, 6), Target(0.5))
    sparse.keep(0.5)
    finished = sparse.finished().net
    assert (finished.fc1.bias[:4] == 0).all()
    assert (finished.fc1.bias[4:] != 0).all()


def test_the_soft_threshold_is_that_of_torch():
    values = torch.randn(5, 4)
    soft = SoftThreshold(values)
    assert torch.equal(soft(values), values)  # no threshold yet
    with torch.no_grad():
        soft.s.fill_(0.3)
    soft.cut(values, -1.0)
    torch.testing.assert_close(soft(values), F.softshrink(values, torch.tensor(-0.7).sigmoid().item()))


def test_a_threshold_is_learned_in_each_layer():
    task = JOBS["parameters, Adam, average"]()
    net = task.task.build()
    sparse = WeightSparse(net, SoftThreshold, task.example, task.task.target)
    sparse.keep(0.5)
    trained(task, net)
    learned = [float(it.parametrizations.weight[0].s.detach()) for it in (net.fc1, net.fc2, net.fc3)]
    assert len(set(learned)) == 3
    assert 0 not in learned


def test_a_lottery_ticket_is_set_back_each_round_with_fewer_weights(monkeypatch):
    task = JOBS["parameters, Adam, average"]()
    seen, early = [], {}

    def train(task, net, options=None, after_step=None):
        assert options is not None or not seen  # a checkpoint would take up the run before
        seen.append({name: value.clone() for name, value in net.state_dict().items()})
        for step in range(1, task.steps + 1):
            for parameter in net.parameters():
                parameter.data += 0.1 * torch.randn_like(parameter)
            if after_step is not None:
                after_step(step)
            if step == max(1, round(task.steps / 20)) and after_step is not None:
                early.update({name: value.clone() for name, value in net.state_dict().items()})

    monkeypatch.setattr(weights, "trained", train)
    weights.lottery(task)
    first, *rounds = seen
    masks = [name for name in first if name.endswith("weight.0.mask")]
    sizes = [sum(int(state[name].sum()) for name in masks) for state in rounds]
    assert len(rounds) == 3
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == 3
    for state in rounds:
        assert all(torch.equal(state[name], early[name]) for name in early if not name.endswith("mask"))


def test_steps_are_told_once_they_are_done():
    task = JOBS["macs, SGD, bfloat16"]()
    steps, start = [], task.task.build()
    net = task.task.build()
    net.load_state_dict(start.state_dict())
    moved = []

    def note(step):
        steps.append(step)
        moved.append(not torch.equal(net.last.weight, start.last.weight))

    trained(task, net, after_step=note)
    assert steps == list(range(1, task.steps + 1))
    assert all(moved)


# -- structured pruning ---------------------------------------------------------------------------------------------


@pytest.fixture
def pruning():
    pytest.importorskip("torch_pruning")
    from comparison import pruning  # noqa: PLC0415 (it needs torch_pruning)

    return pruning


@pytest.mark.parametrize("power", [1, 2])
def test_gradients_are_averaged_over_batches(pruning, power):
    task = JOBS["macs, SGD, bfloat16"]()
    net = task.task.build()
    batches = task.task.batches(task.data.train)
    batches.shuffle = False
    found = pruning._mean_gradients(net, batches, 5, power)
    net.eval()
    losses = [F.cross_entropy(net(x), y) for x, y in zip(batches.x.split(8)[:5], batches.y.split(8)[:5], strict=True)]
    for name, parameter in net.named_parameters():
        grads = [torch.autograd.grad(loss, parameter, retain_graph=True)[0].abs() ** power for loss in losses]
        torch.testing.assert_close(found[name], torch.stack(grads).mean(0))


def test_a_layer_that_ranks_last_keeps_two_units(pruning):
    task = job(LeNet5, (1, 28, 28), "parameters", share=0.0096)
    net = LeNet5()

    def importance(group):
        units = len(group[0].idxs)
        return torch.arange(units) / units + (units != net.conv2.out_channels)

    small = pruning._pruned(task, net, net, importance, 0.0096)
    assert small.conv2.out_channels == 2
    assert pruning.share_of(task.task, small, net, task.example) == pytest.approx(0.0096, rel=0.05)


@pytest.mark.parametrize("method", ["magnitude", "taylor", "fisher", "group_sparsity", "slimming"])
def test_units_go_until_the_target_is_met(pruning, method):
    task = job(Chain, (2, 8, 8), "macs", share=0.4, **SGD)
    finished = getattr(pruning, method)(task)
    share = pruning.share_of(task.task, finished.net, task.task.build(), task.example)
    assert 0.32 < share <= 0.4


class Chain(nn.Sequential):
    def __init__(self):
        super().__init__(
            nn.Conv2d(2, 16, 3, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 16, 3, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(16, 3),
        )


def test_slimming_pulls_scales_down_that_nothing_holds(pruning, monkeypatch):
    task = job(Chain, (2, 8, 8), "macs", share=0.4, optimizer="sgd", lr=0.1)
    task = replace(task, data=replace(task.data, train=Split(torch.zeros(64, 2, 8, 8), task.data.train.y)))
    seen = []
    monkeypatch.setattr(pruning, "_pruned_at_once", lambda _, net, __: seen.append(net))
    pruning.slimming(task)
    assert seen[0][1].weight.abs().max() < 0.5  # from 1; momentum would take further steps to make it 0


def test_gradients_are_changed_within_and_not_after(pruning):
    task = JOBS["macs, SGD, bfloat16"]()
    calls = []
    with pruning._before_steps(lambda: calls.append(1)):
        pruning._train(task, task.task.build(), 2)
    pruning._train(task, task.task.build(), 1)
    assert len(calls) == 2 * 8
