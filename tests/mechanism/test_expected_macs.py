"""Expected multiply-accumulates, against those that torch's flop counter finds in the networks that draws select."""

import pytest
import torch
from cost_oracle import EXAMPLES, IMAGES, X, conv, every_pattern, linear, mean, random_probs, sequence
from torch import nn

from l0bayes import compact, sparsify
from l0bayes.code_cost.expected_cost import ExpectedCost
from l0bayes.inference import HardConcreteGuide
from l0bayes.models import MLP, LeNet5
from l0bayes.posterior.cost import cost, expected_macs
from l0bayes.subnetwork.compacted import compact_network

SEQUENCES = torch.ones(3, 5, 4, dtype=torch.float64)


@pytest.fixture(autouse=True)
def _double(_same_start):
    torch.set_default_dtype(torch.float64)


class Attends(nn.Module):
    """Heads, and products of features that nothing decides over after them."""

    def __init__(self, *, batch_first=True, masked=False):
        super().__init__()
        self.heads = nn.MultiheadAttention(4, 2, batch_first=batch_first)
        self.fc1, self.fc2 = nn.Linear(4, 3), nn.Linear(3, 2)
        self.mask = torch.ones(5, 5).tril().log() if masked else None

    def forward(self, x):
        attended, _ = self.heads(x, x, x, need_weights=False, attn_mask=self.mask)
        return self.fc2(self.fc1(attended).relu())


class ByHand(nn.Module):
    """Attention written with matrix products; two heads."""

    def __init__(self):
        super().__init__()
        self.query, self.key, self.value = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 6)
        self.out = nn.Linear(6, 2)

    def forward(self, x):
        q, k = (layer(x).unflatten(-1, (-1, 2)).transpose(1, 2) for layer in (self.query, self.key))
        v = self.value(x).unflatten(-1, (-1, 3)).transpose(1, 2)
        return self.out(((q @ k.mT).softmax(-1) @ v).transpose(1, 2).flatten(2))


class Crosses(nn.Module):
    """Attention from three places to five others, whose weights are used in parts."""

    def __init__(self):
        super().__init__()
        self.query, self.key, self.fc = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)
        self.heads = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x):
        key = self.key(x)
        return self.fc(self.heads(self.query(x[:, :3]), key, key, need_weights=False)[0])


class Encoder(nn.Module):
    def __init__(self, dropout=0.0, **options):
        super().__init__()
        self.embed = nn.Linear(4, 4)
        self.layer = nn.TransformerEncoderLayer(4, 2, 3, dropout, batch_first=True, **options)
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.layer(self.embed(x)).mean(1))


NETS = {
    name: EXAMPLES[name]
    for name in EXAMPLES
    if not name.startswith("weights") and name != "embedding"  # single weights take no multiplications away
} | {
    "paddings and strides": (
        sequence(conv(1, 3, 3, padding=1, stride=2, dilation=1), conv(3, 4, 2, groups=1), nn.Flatten, linear(4, 2)),
        IMAGES,
        "unit",
    ),
    "transposed": (
        sequence(lambda: nn.ConvTranspose2d(1, 3, 3, stride=2), nn.ReLU, conv(3, 2, 3, stride=2), conv(2, 1, 1)),
        IMAGES,
        "unit",
    ),
    "one dimension": (
        sequence(lambda: nn.Conv1d(3, 3, 2), lambda: nn.Conv1d(3, 2, 1)),
        torch.ones(2, 3, 4).double(),
        "unit",
    ),
    "over time": (sequence(linear(4, 3), nn.ReLU, linear(3, 2)), SEQUENCES, "input"),
    "heads": (Attends, SEQUENCES, "unit"),
    "heads with a mask": (lambda: Attends(masked=True), SEQUENCES, "unit"),
    "attention by hand": (ByHand, SEQUENCES, "unit"),
    "cross-attention": (Crosses, SEQUENCES, "unit"),
    "encoder": (Encoder, SEQUENCES, "unit"),
    "encoder, norm first": (lambda: Encoder(norm_first=True), SEQUENCES, "unit"),
}
each_net = pytest.mark.parametrize("net", NETS.values(), ids=NETS)


def expected(structure):
    return ExpectedCost(structure, structure.macs, 1.0)


def all_macs(structure):
    """Those of every element and every product, gates or not."""
    weights = sum(each * structure.shapes[name].numel() for name, each in structure.macs.items())
    return weights + sum(product.macs.sum().item() for product in structure.products)


@each_net
def test_all_are_seen(net):
    build, x, gates = net
    net = build()
    assert all_macs(sparsify(net, x, gates=gates).structure) == cost(net, x).macs


@each_net
def test_a_pattern_of_gates_leaves_what_the_compacted_network_does(net):
    build, x, gates = net
    net = build()
    structure = sparsify(net, x, gates=gates).structure
    patterns, macs = every_pattern(structure), expected(structure)
    full = macs.total({name: pattern[-1] for name, pattern in patterns.items()}).item()
    runs = [
        row for row in range(len(patterns[structure.groups[0].name])) if all(p[row].any() for p in patterns.values())
    ]
    for row in torch.randperm(len(runs))[:20].tolist():
        drawn = {name: pattern[runs[row]] for name, pattern in patterns.items()}
        small = compact_network(net, structure.groups, drawn).eval()
        assert cost(net, x).macs - cost(small, x).macs == full - macs.total(drawn).item()


@each_net
def test_it_is_the_mean_over_all_patterns(net):
    build, x, gates = net
    structure = sparsify(build(), x, gates=gates).structure
    probs = random_probs(structure)
    of_products = sum(product.macs @ probs[product.group] for product in structure.products if product.group)
    by_pattern = mean(structure, probs, structure.macs) + of_products
    assert expected(structure).total(probs).item() == pytest.approx(by_pattern.item(), abs=1e-9)


def test_products_of_features_hang_on_the_heads():
    """Scores and averages: 2 · 5 · 5 · 2 multiplications a head."""
    structure = sparsify(Attends(), SEQUENCES).structure
    assert [(product.group, product.macs.tolist()) for product in structure.products] == [("heads.unit", [100.0] * 2)]


@pytest.mark.parametrize("rows", [1, 2, 7])
@pytest.mark.parametrize("batch_first", [True, False])
def test_the_example_may_have_any_number_of_rows(rows, batch_first):
    net = Attends(batch_first=batch_first)
    x = torch.ones(rows, 5, 4) if batch_first else torch.ones(rows, 1, 4)  # sequences of length `rows` otherwise
    structure = sparsify(net, x).structure
    assert [group.name for group in structure.groups] == ["heads.unit", "heads.out_proj.unit", "fc1.unit"]
    assert all_macs(structure) == cost(net, x).macs


def test_dropout_is_no_obstacle_to_gates_on_heads():
    """In training mode torch then takes attention apart."""
    structure = sparsify(Encoder(dropout=0.1), SEQUENCES).structure
    assert [group.name for group in structure.groups] == ["layer.self_attn.unit", "layer.linear1.unit"]


@pytest.mark.parametrize("fast", [True, False])
def test_the_fused_attention_of_evaluation_is_counted_too(fast):
    """5 places: 3 · 4 · 4 for queries, keys and values, 2 · 5 · 4 for the products, 4 · 4 and 2 · 3 · 4 after them."""
    net = Encoder().eval()
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(fast)
    try:
        assert cost(net.layer, SEQUENCES).macs == 5 * (48 + 40 + 16 + 24)
        assert torch.backends.mha.get_fastpath_enabled() == fast
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


@pytest.mark.parametrize(
    ("build", "shape", "by_hand"),
    [
        (lambda: MLP(784, 300, 100, 10), (28, 28), 784 * 300 + 300 * 100 + 100 * 10),
        (LeNet5, (1, 28, 28), 20 * 25 * 576 + 50 * 20 * 25 * 64 + 800 * 500 + 500 * 10),
    ],
    ids=["MLP", "LeNet5"],
)
@pytest.mark.parametrize("gates", ["unit", "input"])
def test_expected_macs_of_the_papers_networks(build, shape, by_hand, gates):
    net, x = build(), torch.zeros(2, *shape)
    sparse = sparsify(net, x, gates=gates)
    guide = HardConcreteGuide(sparse)
    with torch.no_grad():
        for parameter in guide.parameters():
            parameter.fill_(50.0)
        assert expected_macs(sparse, guide) == cost(net, x).macs == by_hand
        for parameter in guide.parameters():
            parameter[1:] -= 100.0 * (torch.rand(len(parameter) - 1) < 0.5)  # one stays, as in every compacted group
    assert expected_macs(sparse, guide) == pytest.approx(cost(compact(sparse, guide), x).macs, abs=1e-6)


def test_a_guide_in_single_precision_gives_the_same_number():
    sparse = sparsify(MLP(784, 300, 100, 10), torch.zeros(2, 784))
    guide = HardConcreteGuide(sparse)
    assert expected_macs(sparse, guide.float()) == pytest.approx(expected_macs(sparse, guide.double()), rel=1e-6)
    assert isinstance(expected_macs(sparse, guide), float)


def test_units_of_the_output_are_in_it_as_far_as_they_read_gated_features():
    sparse = sparsify(nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2)), X, gates={"0": "unit"}, init_open=0.5)
    assert expected_macs(sparse, HardConcreteGuide(sparse)) == pytest.approx(0.5 * 3 * 3 + 0.5 * 3 * 2)
