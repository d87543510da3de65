"""What a heavily pruned network keeps is alive: on a way of open gates from its inputs to its outputs."""

import itertools

import pytest
import torch
from awkward_nets import Layers, Network
from exact_examples import EXAMPLES, Dense
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from l0bayes import compact, sparsify
from l0bayes.inference import HardConcreteGuide, predict, shrink
from l0bayes.inference.selection.decision import Decider, Limit
from l0bayes.models import MLP, Classifier, LeNet5, WideResNet
from l0bayes.structure import Alive
from l0bayes.subnetwork.masked import masked_forward

PAPER = {"conv*": "unit", "fc*": "input"}


def guided(sparse, log_alpha):
    """A guide with log α of its own for each gate: a number, or group name to numbers."""
    guide = HardConcreteGuide(Classifier(sparse, 100))
    with torch.no_grad():
        for group in sparse.groups:
            value = log_alpha[group.name] if isinstance(log_alpha, dict) else log_alpha
            guide.get_parameter(f"log_alpha.{group.name}").copy_(torch.as_tensor(value).expand(group.size))
    return guide


def positive(net):
    """Weights and inputs without signs: whatever has a way to the outputs shows there, whatever ReLU does."""
    with torch.no_grad():
        for name, tensor in net.state_dict().items():
            if tensor.is_floating_point():
                (tensor.abs_() if "running_mean" not in name else tensor.zero_()).add_(0.01 * tensor.dim())
    return net.double().eval()


def shows(sparse, gates, x):
    """The oracle: another input, another output, in the masked network."""
    gates = {name: (gate != 0).double() for name, gate in gates.items()}
    first, second = (masked_forward(sparse.net, sparse.groups, gates, y) for y in (x, 2 * x + 1))
    return not torch.equal(first, second)


# -- the paper's LeNet-5 ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_the_papers_lenet_is_never_empty(seed):
    torch.manual_seed(seed)
    x = torch.rand(2, 1, 28, 28).double()
    sparse = sparsify(LeNet5(), x.float(), gates=PAPER)
    positive(sparse.net)
    guide = guided(sparse, {g.name: torch.randn(g.size) - 6 for g in sparse.groups})
    points = guide.point()
    assert {name: int((z != 0).sum()) for name, z in points.items()} == dict.fromkeys(points, 1)
    assert shows(sparse, points, x)
    small = compact(sparse, guide)
    assert small.fc1.in_features == 1
    assert (small(x) != small(2 * x)).all()
    torch.testing.assert_close(small(x), predict(sparse, guide, x))


def test_an_input_that_is_open_keeps_its_filter():
    sparse = sparsify(LeNet5(), torch.rand(2, 1, 28, 28), gates=PAPER)
    log_alpha = {g.name: torch.full((g.size,), -9.0) for g in sparse.groups}
    log_alpha["fc1.input"][7 * 16 + 3] = 9.0
    log_alpha["conv2.unit"][5] = -8.0
    points = guided(sparse, log_alpha).point()
    assert points["conv2.unit"].nonzero().flatten().tolist() == [7]
    log_alpha["conv2.unit"][5] = 9.0
    points = guided(sparse, log_alpha).point()
    assert points["conv2.unit"].nonzero().flatten().tolist() in ([5], [5, 7])
    assert set(points["fc1.input"].nonzero().flatten().tolist()) & set(range(5 * 16, 6 * 16))


# -- any network, any gates ----------------------------------------------------------------------------------------


class Joined(Layers):
    """Two branches, side by side, each of which may vanish; not both."""

    def __init__(self):
        super().__init__(left=nn.Linear(4, 3), right=nn.Linear(4, 2), fc=nn.Linear(5, 2))

    def forward(self, x):
        return self.fc(torch.cat([self.left(x).relu(), self.right(x).relu()], 1))


class Residual(Layers):
    """A stream, and a branch of two layers beside it."""

    def __init__(self):
        super().__init__(stem=nn.Linear(4, 5), fc1=nn.Linear(5, 3), fc2=nn.Linear(3, 5), head=nn.Linear(5, 2))

    def forward(self, x):
        h = self.stem(x).relu()
        return self.head((h + self.fc2(self.fc1(h).relu())).relu())


def conv():
    return nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Conv2d(3, 4, 2, groups=1), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)
    )


def words():
    return Network(
        lambda s, x: s.fc2(s.fc1(s.embed((x[:, 0] > 2).long())).relu()),
        embed=nn.Embedding(5, 4),
        fc1=nn.Linear(4, 3),
        fc2=nn.Linear(3, 2),
    )


VECTOR, IMAGE = (3, 4), (3, 2, 5, 5)
NETS = {
    "mlp": (lambda: MLP(4, 3, 3, 2), VECTOR, "unit"),
    "mlp by inputs": (lambda: MLP(4, 3, 3, 2), VECTOR, "input"),
    "mlp by weights": (lambda: MLP(4, 3, 3, 2), VECTOR, "weight"),
    "mlp by all": (lambda: MLP(4, 3, 3, 2), VECTOR, {"fc1": "unit", "fc2": "weight", "fc3": "input"}),
    "mlp by units and weights": (lambda: MLP(4, 3, 3, 2), VECTOR, {"fc2": "unit", "fc1": "weight", "fc3": "weight"}),
    "joined": (Joined, VECTOR, "unit"),
    "joined by inputs": (Joined, VECTOR, {"fc": "input", "left": "unit"}),
    "residual": (Residual, VECTOR, "unit"),
    "residual by inputs": (Residual, VECTOR, {"fc1": "input", "fc2": "input"}),
    "convolutions": (conv, IMAGE, "unit"),
    "convolutions by inputs": (conv, IMAGE, {"0": "unit", "2": "unit", "5": "input"}),
    "convolutions by weights": (conv, IMAGE, "weight"),
    "dense block": (lambda: Dense(2, 2), (3, 2, 6, 6), "unit"),
    "wide resnet": (lambda: WideResNet(10, 1, 3), (3, 3, 8, 8), "unit"),
}
SPARSE = {}


def network(name):
    if name not in SPARSE:
        build, shape, gates = NETS[name]
        torch.manual_seed(1)
        x = torch.rand(shape)
        sparse = sparsify(build(), x, gates=gates)
        positive(sparse.net)
        SPARSE[name] = sparse, x.double()
    return SPARSE[name]


@pytest.mark.parametrize("name", NETS)
@settings(max_examples=25)
@given(seed=st.integers(0, 10**6), level=st.sampled_from([-9.0, -5.0, -3.0, -2.0]))
def test_whatever_the_gates_the_input_shows_in_the_output(name, seed, level):
    sparse, x = network(name)
    generator = torch.Generator().manual_seed(seed)
    log_alpha = {g.name: level + 1.5 * torch.randn(g.size, generator=generator) for g in sparse.groups}
    guide = guided(sparse, log_alpha)
    points, free = guide.point(), {name: gate.point("paper") for name, gate in guide.gates().items()}
    assert shows(sparse, points, x)
    for group in sparse.groups:
        point, before = points[group.name], free[group.name]
        assert torch.equal(point[before != 0], before[before != 0])
        assert int((point != 0).sum()) >= group.min_units
        assert group.min_units == 0 or has_an_effect(sparse, points, group, x)
    assert all(torch.equal(z, points[name]) for name, z in guide.point().items())


def has_an_effect(sparse, points, group, x):
    """Whether closing what a group keeps changes the outputs."""
    gates = {name: (z != 0).double() for name, z in points.items()}
    closed = gates | {group.name: torch.zeros_like(gates[group.name])}
    first, second = (masked_forward(sparse.net, sparse.groups, one, x) for one in (gates, closed))
    return not torch.equal(first, second)


def test_the_most_probable_way_is_opened():
    """By enumeration of all ways through three layers, with gates on units, inputs and weights."""
    sparse, _ = network("mlp by all")
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        odds = {g.name: torch.randn(g.size, generator=generator).double() - 3 for g in sparse.groups}
        closed = {name: torch.zeros(len(value), dtype=torch.bool) for name, value in odds.items()}
        opened = Alive(sparse.structure).complete(closed, odds)
        score = {name: nn.functional.logsigmoid(value) for name, value in odds.items()}
        weights = score["fc2.weight"].reshape(3, 3)
        ways = {
            (i, j): float(score["fc1.unit"][i] + weights[j, i] + score["fc3.input"][j])
            for i, j in itertools.product(range(3), range(3))
        }
        i, j = max(ways, key=ways.get)
        assert opened["fc1.unit"].nonzero().tolist() == [[i]]
        assert opened["fc3.input"].nonzero().tolist() == [[j]]
        assert opened["fc2.weight"].reshape(3, 3).nonzero().tolist() == [[j, i]]


def test_all_of_min_units_are_alive():
    sparse = sparsify(LeNet5(), torch.rand(2, 1, 28, 28), gates=PAPER, min_units=4)
    points = guided(sparse, {g.name: torch.randn(g.size) - 9 for g in sparse.groups}).point()
    inputs, filters = points["fc1.input"] != 0, points["conv2.unit"] != 0
    assert int((inputs & filters.repeat_interleave(16)).sum()) >= 4
    assert int((inputs.reshape(50, 16).any(1) & filters).sum()) >= 4


def test_a_network_of_which_0_units_were_asked_may_be_empty():
    sparse = sparsify(MLP(4, 3, 3, 2), torch.rand(3, 4), min_units=0)
    assert not any(z.any() for z in guided(sparse, -9.0).point().values())


def test_words_count_as_inputs():
    sparse = sparsify(words(), torch.rand(3, 4) * 5)
    assert {name: int((z != 0).sum()) for name, z in guided(sparse, -9.0).point().items()} == {
        "embed.unit": 1,
        "fc1.unit": 1,
    }


@pytest.mark.parametrize("kind", EXAMPLES)
def test_it_holds_after_shrinking(kind):
    example = EXAMPLES[kind]
    x = example.data(3)
    sparse = sparsify(example.build(), x, gates=example.gates)
    generator = torch.Generator().manual_seed(3)
    guide = guided(sparse, {g.name: torch.randn(g.size, generator=generator) - 12 for g in sparse.groups})
    before = {name: sparse.units[name][z != 0].tolist() for name, z in guide.point().items()}
    model = guide.model
    expected = predict(model, guide, x)
    shrink(model, guide)
    after = {name: sparse.units[name][z != 0].tolist() for name, z in guide.point().items()}
    assert after == before
    torch.testing.assert_close(predict(model, guide, x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["mlp by inputs", "joined by inputs", "convolutions by inputs", "dense block"])
def test_decisions_by_evidence_are_alive(name):
    sparse, x = network(name)
    everything = {g.name: torch.ones(g.size, dtype=torch.bool) for g in sparse.groups}
    size = sparse.live_cost().amount
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        nats = {g.name: torch.rand(g.size, generator=generator).double() for g in sparse.groups}
        decider = Decider(everything, nats, sparse.keep_alive)
        opened = decider.decide([Limit(size, 1.0)]).opened
        assert shows(sparse, opened, x)
        assert sum(int(gates.sum()) for gates in opened.values()) <= 2 * len(opened)
