"""Layers that are almost, but not quite, ordinary ones, and networks of layers put together at random."""

import random

import pytest
import torch
from awkward_nets import exactly_gated
from torch import nn
from torch.nn.functional import glu, pad

from l0bayes import compact, sparsify
from l0bayes.errors import StructureError
from l0bayes.inference import HardConcreteGuide, predict
from l0bayes.models import MLP, Classifier
from l0bayes.posterior import cost

X = torch.randn(20, 6, generator=torch.Generator().manual_seed(1))


def half_closed(net, gates="input"):
    model = Classifier(sparsify(net, X[:2], gates=gates), num_data=20)
    guide = HardConcreteGuide(model)
    with torch.no_grad():
        for parameter in guide.parameters():
            parameter.copy_(4 * torch.randn_like(parameter))
    return model, guide


class Named(nn.Linear):
    """A linear layer of the user's own."""


def test_a_subclass_of_linear_is_compacted_exactly():
    net = nn.Sequential(Named(6, 5), nn.ReLU(), Named(5, 3))
    model, guide = half_closed(net)
    small = compact(model, guide)
    torch.testing.assert_close(small(X), predict(model, guide, X), atol=1e-5, rtol=1e-5)
    assert type(small[0]) is Named


def test_a_compacted_network_can_be_gated_again_where_it_does_not_select():
    model, guide = half_closed(MLP(6, 8, 7, 3))
    with torch.no_grad():
        guide.parameter("log_alpha.fc1.input").copy_(torch.tensor([5.0, -5.0] * 3))
    small = compact(model, guide)
    again = sparsify(small, X[:2], gates="input")
    assert "fc1" in again.structure.dense
    torch.testing.assert_close(
        again.run({group.name: torch.ones(group.size) for group in again.groups}, X), small(X), atol=1e-5, rtol=1e-5
    )


def test_a_bfloat16_network_is_checked_in_float64():
    sparse = sparsify(MLP(64, 30, 10).bfloat16(), torch.randn(2, 64).bfloat16(), gates="input")
    assert [group.size for group in sparse.groups] == [64, 30]


def test_a_layer_named_in_full_is_not_left_dense_unseen():
    with pytest.raises(StructureError, match="'fc3' cannot be gated as asked: its features leave the network"):
        sparsify(MLP(6, 5, 4, 3), X[:2], gates={"fc1": "unit", "fc3": "unit"})


@pytest.mark.parametrize(("example", "problem"), [(X[:0], "at least one row"), (X[:2] * float("nan"), "finite")])
def test_an_example_that_could_show_nothing(example, problem):
    with pytest.raises(StructureError, match=f"example_input must.*{problem}"):
        sparsify(MLP(6, 5, 3), example)


@pytest.mark.parametrize("name", ["code_cost", "inclusion"])
def test_an_option_that_is_no_number(name):
    with pytest.raises(ValueError, match=f"{name} must be a number.*; got 'a'"):
        sparsify(MLP(6, 5, 3), X[:2], **{name: "a"})


def test_counting_costs_changes_nothing():
    net = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5)).train()
    before = net[1].running_mean.clone()
    cost(net, X)
    assert torch.equal(net[1].running_mean, before)
    assert net.training


def test_compacting_draws_nothing():
    model, guide = half_closed(MLP(6, 8, 7, 3))
    state = torch.get_rng_state()
    compact(model, guide)
    assert torch.equal(torch.get_rng_state(), state)


# -- networks put together at random --------------------------------------------------------------------------

# What may be done with the features h, and with as many others g.
STEPS = {
    "linear": lambda s, h, _g: s.own(h),
    "sum": lambda _s, h, g: h + g,
    "product": lambda _s, h, g: h * g.sigmoid(),
    "in place": lambda _s, h, g: h.clone().mul_(2.0).add_(g).tanh_(),
    "choice": lambda _s, h, g: torch.where(g[:, :1] > 0, h, 0.5 * h),
    "side by side": lambda _s, h, g: torch.cat([h, g], 1),
    "interleaved": lambda _s, h, g: torch.stack([h, g], 2).flatten(1),
    "one above the other": lambda _s, h, g: torch.cat([h, g]).chunk(2)[1],
    "backwards": lambda _s, h, _g: h.flip(1),
    "twice": lambda _s, h, _g: h.repeat_interleave(2, 1),
    "wider": lambda _s, h, _g: pad(h, (1, 1)),
    "some": lambda _s, h, _g: h[:, :3],
    "rolled": lambda _s, h, _g: h.roll(1, 1),
    "rolled by hand": lambda _s, h, _g: torch.cat([h[:, 1:], h[:, :1]], 1),
    "halves": lambda _s, h, _g: glu(pad(h, (0, h.shape[1] % 2)), 1),
    "sums so far": lambda _s, h, _g: h.cumsum(1),
    "centred": lambda _s, h, _g: h - h.mean(1, keepdim=True),
    "scaled by one": lambda _s, h, g: h * g[:, -1:],
    "all pairs": lambda _s, h, g: (h[:, :, None] * g[:, None]).flatten(1)[:, :12],
    "attention": lambda _s, h, g: ((h[:, :, None] * g[:, None]).softmax(2) @ g[:, :, None])[..., 0],
    "norm": lambda s, h, _g: s.norm(h),
    "batch norm": lambda s, h, _g: s.batch_norm(h),
    "scale": lambda s, h, _g: h * s.scale,
    "prelu": lambda s, h, _g: s.prelu(h),
    "gate": lambda s, h, g: h * s.gate(g).sigmoid(),
}


class Step(nn.Module):
    """One of them, with all the layers it might need."""

    def __init__(self, name, width, other):
        super().__init__()
        self.use = STEPS[name]
        self.project = nn.Identity() if other == width else nn.Linear(other, width)
        self.own, self.gate = nn.Linear(width, 4), nn.Linear(width, 1)
        self.norm, self.batch_norm = nn.LayerNorm(width), nn.BatchNorm1d(width)
        self.scale, self.prelu = nn.Parameter(torch.ones(width)), nn.PReLU()

    def forward(self, h, g):
        return self.use(self, h, self.project(g))


class AtRandom(nn.Module):
    """Steps from what any two steps before have made, and a layer behind the last two."""

    def __init__(self, seed):
        super().__init__()
        choose = random.Random(seed)  # noqa: S311 (nothing secret)
        self.first, self.steps, self.taken = nn.Linear(5, 5), nn.ModuleList(), []
        made = [torch.randn(4, 5)]
        for _ in range(choose.randint(3, 7)):
            one, other = choose.randrange(len(made)), choose.randrange(len(made))
            step = Step(choose.choice(list(STEPS)), made[one].shape[1], made[other].shape[1])
            self.taken.append((one, other))
            self.steps.append(step)
            made.append(step(made[one], made[other]))
        self.last = nn.Linear(sum(h.shape[1] for h in made[-2:]), 2)

    def forward(self, x):
        made = [self.first(x).relu()]
        for step, (one, other) in zip(self.steps, self.taken, strict=True):
            made.append(step(made[one], made[other]))
        return self.last(torch.cat(made[-2:], 1))


@pytest.mark.parametrize("granularity", ["unit", "input"])
@pytest.mark.parametrize("seeds", range(6))
def test_networks_put_together_at_random_are_exact_or_refused(seeds, granularity):
    torch.set_default_dtype(torch.float64)
    gated = 0
    for seed in range(10 * seeds, 10 * seeds + 10):
        try:
            gated += len(exactly_gated(AtRandom(seed), torch.randn(4, 5), gates=granularity).groups)
        except StructureError as error:
            assert "net has no layer" in str(error) or "no gates that were asked for" in str(error)  # noqa: PT017
    assert gated > 0
