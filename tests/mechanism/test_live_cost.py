"""How much of a network is alive: against networks that were cut, and against every pattern of gates."""

import pytest
import torch
from cost_oracle import EXAMPLES, every_pattern, mean, mlp, random_probs
from torch import nn

from l0bayes import compact, sparsify
from l0bayes.code_cost.live_cost import LiveCost
from l0bayes.inference import HardConcreteGuide
from l0bayes.models import MLP, LeNet5, WideResNet
from l0bayes.posterior.cost import cost

NETWORKS = {
    "mlp": (lambda: MLP(12, 10, 8, 3), (12,), "unit"),
    "mlp by inputs": (lambda: MLP(12, 10, 8, 3), (12,), "input"),
    "lenet": (lambda: LeNet5(3), (1, 28, 28), "unit"),
    "lenet by filters and inputs": (lambda: LeNet5(3), (1, 28, 28), {"conv*": "unit", "fc*": "input"}),
    "lenet with dense layers": (lambda: LeNet5(3), (1, 28, 28), {"conv2": "unit"}),
    "wide resnet": (lambda: WideResNet(10, 1, 3), (3, 8, 8), "unit"),
    "heads": (lambda: nn.TransformerEncoderLayer(8, 4, 12, 0.0, batch_first=True), (5, 8), "unit"),
}
each_network = pytest.mark.parametrize("kind", NETWORKS)
each_amount = pytest.mark.parametrize("of", ["parameters", "macs"])


@pytest.fixture(autouse=True)
def _double(_same_start):
    torch.set_default_dtype(torch.float64)


def build(kind):
    fresh, shape, gates = NETWORKS[kind]
    torch.manual_seed(0)
    x = torch.randn(2, *shape)
    return sparsify(fresh(), x, gates=gates), x


def amount_of(net, x, of):
    return getattr(cost(net, x), of)


@each_amount
@each_network
def test_everything_is_what_the_network_costs(kind, of):
    sparse, x = build(kind)
    live = LiveCost(sparse.structure, of)
    assert live.total == amount_of(sparse.child("net"), x, of)
    all_open = {group.name: torch.ones(group.size) for group in sparse.groups}
    assert live.amount(all_open).item() == pytest.approx(live.total, rel=1e-12)


@each_amount
@each_network
def test_under_given_gates_it_is_what_the_finished_network_costs(kind, of):
    sparse, x = build(kind)
    guide = HardConcreteGuide(sparse)
    live = LiveCost(sparse.structure, of)
    amounts = set()
    for _ in range(4):
        with torch.no_grad():
            for log_alpha in guide.parameters():
                log_alpha.copy_(torch.where(torch.rand(log_alpha.shape) < torch.rand(()), 40.0, -40.0))
                log_alpha[0] = 40.0  # where all are closed compact keeps one that counts for nothing
        gates = {name: (z != 0).to(z.dtype) for name, z in guide.point().items()}
        amounts.add(live.amount(gates).item())
        assert live.amount(gates).item() == pytest.approx(amount_of(compact(sparse, guide), x, of), rel=1e-12)
    assert len(amounts) > 1


@each_amount
def test_it_is_the_mean_over_every_pattern(of):
    """What is under no gate is there in each of them."""
    for name in ("units", "convolutions", "residual", "two gates over a column", "weights between units"):
        net, x, gates = EXAMPLES[name]
        structure = sparsify(net(), x, gates=gates).structure
        each = structure.macs if of == "macs" else dict.fromkeys(structure.shapes, 1.0)
        probs = random_probs(structure)
        patterns = every_pattern(structure)
        live = LiveCost(structure, of)
        all_open = {group: pattern[-1] for group, pattern in patterns.items()}
        always = live.total - mean(structure, all_open, each)
        expected = mean(structure, probs, each) + always
        found = live.amount(probs)
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
        gradients = (torch.autograd.grad(value, list(probs.values())) for value in (found, expected))
        torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-10)


@each_amount
@each_network
def test_parts_add_up(kind, of):
    sparse, _ = build(kind)
    layers = sorted({name.rpartition(".")[0] for name in sparse.structure.shapes})
    probs = {group.name: torch.rand(group.size) for group in sparse.groups}
    whole = LiveCost(sparse.structure, of)
    parts = [LiveCost(sparse.structure, of, layer) for layer in layers]
    if kind != "heads" or of == "parameters":  # products of features with features belong to no parameter
        assert sum(part.total for part in parts) == pytest.approx(whole.total)
        assert sum(part.amount(probs) for part in parts).item() == pytest.approx(whole.amount(probs).item())
    for part in parts:
        assert 0 <= part.amount(probs).item() <= part.total * (1 + 1e-12)


@each_amount
def test_a_pattern_counts_the_layers_it_matches(of):
    """By hand: 4-3-2-1 with gates on the inputs of each layer, all but one input of the second open."""
    structure = sparsify(MLP(4, 3, 2, 1), torch.zeros(1, 4), gates="input").structure
    gates = {name: torch.ones(size) for name, size in (("fc1.input", 4), ("fc2.input", 3), ("fc3.input", 2))}
    gates["fc2.input"][0] = 0
    biases = of == "parameters"
    wanted = {"fc1": 8 + 2 * biases, "fc2": 4 + 2 * biases, "fc3": 2 + biases, "fc[12]": 12 + 4 * biases}
    for pattern, number in wanted.items():
        assert LiveCost(structure, of, pattern).amount(gates).item() == number


def test_gates_decide_over_all_but_the_rest():
    structure = sparsify(mlp(), torch.zeros(2, 3), gates={"0": "unit"}).structure
    live = LiveCost(structure)
    closed = {"0.unit": torch.zeros(3)}
    assert live.gated(closed).item() == 0
    assert live.amount(closed).item() == 3 + 3 * 2 + 2  # biases of the second layer, and the third
    assert live.total == 3 * 4 + 3 * 4 + 2 * 4


def test_a_word_that_is_none():
    structure = sparsify(mlp(), torch.zeros(2, 3)).structure
    with pytest.raises(ValueError, match="of must be one of parameters, macs; got 'flops'"):
        LiveCost(structure, "flops")


def test_a_pattern_that_matches_nothing():
    structure = sparsify(MLP(4, 3, 2), torch.zeros(2, 4)).structure
    with pytest.raises(ValueError, match=r"pattern 'conv\*' matches no layer with parameters\. Layers are fc1, fc2"):
        LiveCost(structure, "parameters", "conv*")
