"""One truth for MACs: torch's own counter as the oracle where it knows an operation, arithmetic where it does not."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)
import torchvision
from flop_oracle import macs
from hypothesis import given, settings
from hypothesis import strategies as st
from named_layers import Net
from torch import nn
from torch.nn.utils import parametrizations

from l0bayes import sparsify
from l0bayes.code_cost.live_cost import LiveCost
from l0bayes.models import MLP, LeNet5, WideResNet
from l0bayes.posterior.cost import cost
from l0bayes.structure.multiplications import MacCounter, unfused_attention
from l0bayes.structure.names import layer_of

zeros = torch.zeros


def counted(function):
    with torch.no_grad(), unfused_attention(), MacCounter() as counter:
        function()
    return counter.total


# -- operations that torch's counter knows ----------------------------------------------------------------------------

OPERATIONS = {
    "mm": lambda: zeros(3, 4) @ zeros(4, 5),
    "mm of a view": lambda: zeros(4, 3).T @ zeros(4, 5),
    "bmm": lambda: zeros(2, 3, 4) @ zeros(2, 4, 5),
    "broadcast product": lambda: zeros(2, 1, 3, 4) @ zeros(6, 4, 5),
    "addmm": lambda: torch.addmm(zeros(5), zeros(3, 4), zeros(4, 5)),
    "baddbmm": lambda: torch.baddbmm(zeros(2, 3, 5), zeros(2, 3, 4), zeros(2, 4, 5)),
    "linear": lambda: F.linear(zeros(2, 6, 4), zeros(5, 4), zeros(5)),
    "einsum": lambda: torch.einsum("bij,bkj->bik", zeros(2, 3, 4), zeros(2, 5, 4)),
    "tensordot": lambda: torch.tensordot(zeros(2, 3, 4), zeros(3, 4, 5), 2),
    "chain": lambda: torch.linalg.multi_dot([zeros(2, 9), zeros(9, 3), zeros(3, 8)]),
    "an element-wise function": lambda: torch.special.erf(zeros(3, 4)) * 2 + zeros(4),
    "nothing": lambda: zeros(0, 4) @ zeros(4, 5),
}


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)
def test_a_product(operation):
    assert counted(operation) == macs(operation)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_convolution(data):
    dims, groups = data.draw(st.integers(1, 3)), data.draw(st.sampled_from([1, 2, 3]))
    numbers = partial(st.integers, 1)
    entering, leaving = (groups * data.draw(numbers(3)) for _ in range(2))
    kernel, stride, dilation = (data.draw(st.tuples(*[numbers(3)] * dims)) for _ in range(3))
    padding = data.draw(st.tuples(*[st.integers(0, 2)] * dims))
    transposed = data.draw(st.booleans())
    kinds = (
        (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
        if transposed
        else (nn.Conv1d, nn.Conv2d, nn.Conv3d)
    )
    layer = kinds[dims - 1](entering, leaving, kernel, stride, padding, groups=groups, dilation=dilation)
    x = zeros(data.draw(numbers(3)), entering, *[data.draw(st.integers(7, 9)) for _ in range(dims)])
    assert counted(lambda: layer(x)) == macs(lambda: layer(x)) > 0


@pytest.mark.parametrize("lengths", [(5, 5), (3, 7), (1, 4)])
@pytest.mark.parametrize("widths", [(8, 8), (8, 4), (1, 3)])
@pytest.mark.parametrize("masked", [False, True])
def test_attention_whatever_kernel_runs(lengths, widths, masked):
    queries, keys = lengths
    query, key, value = zeros(2, 4, queries, widths[0]), zeros(2, 4, keys, widths[0]), zeros(2, 4, keys, widths[1])
    mask = torch.ones(queries, keys, dtype=torch.bool) if masked else None
    attend = partial(F.scaled_dot_product_attention, query, key, value, attn_mask=mask)
    assert counted(attend) == macs(attend) == 2 * 4 * queries * keys * sum(widths)


def test_every_query_head_counts_where_heads_share_keys():
    query, key = zeros(2, 6, 5, 8), zeros(2, 2, 5, 8)
    attend = partial(F.scaled_dot_product_attention, query, key, key, enable_gqa=True)
    assert counted(attend) == macs(attend) == 2 * 6 * 5 * 5 * 16


# -- operations it does not know --------------------------------------------------------------------------------------

BY_HAND = {
    "addmm in place": (lambda: zeros(3, 5).addmm_(zeros(3, 4), zeros(4, 5)), 60),
    "matrix and vector": (lambda: zeros(3, 4) @ zeros(4), 12),
    "a vector product": (lambda: zeros(4) @ zeros(4), 4),
    "addmv": (lambda: torch.addmv(zeros(3), zeros(3, 4), zeros(4)), 12),
    "addbmm": (lambda: torch.addbmm(zeros(3, 5), zeros(2, 3, 4), zeros(2, 4, 5)), 2 * 3 * 4 * 5),
    "bilinear": (lambda: nn.Bilinear(3, 4, 5)(zeros(2, 3), zeros(2, 4)), 2 * 3 * 4 * 5),
    "LSTM": (lambda: nn.LSTM(3, 4)(zeros(6, 2, 3)), 6 * 2 * 4 * 4 * (3 + 4)),
    "LSTM, both ways, two layers": (
        lambda: nn.LSTM(3, 4, 2, bidirectional=True, batch_first=True)(zeros(2, 6, 3)),
        6 * 2 * 2 * 4 * 4 * ((3 + 4) + (8 + 4)),
    ),
    "LSTM without biases": (lambda: nn.LSTM(3, 4, bias=False)(zeros(6, 2, 3)), 6 * 2 * 4 * 4 * (3 + 4)),
    "GRU": (lambda: nn.GRU(3, 4)(zeros(6, 2, 3)), 6 * 2 * 3 * 4 * (3 + 4)),
    "RNN": (lambda: nn.RNN(3, 4)(zeros(6, 2, 3)), 6 * 2 * 4 * (3 + 4)),
    "cell": (lambda: nn.LSTMCell(3, 4)(zeros(2, 3)), 2 * 4 * 4 * (3 + 4)),
}


@pytest.mark.parametrize(("operation", "number"), BY_HAND.values(), ids=BY_HAND)
def test_arithmetic(operation, number):
    assert counted(operation) == number


def test_backward_passes_and_foreign_operations_do_not_count():
    x = zeros(3, 4, requires_grad=True)
    with MacCounter() as counter:
        (x @ zeros(4, 5)).sum().backward()
    assert counter.total == 3 * 4 * 5 + 3 * 5 * 4  # the backward pass of a product is a product
    boxes = torch.tensor([[0.0, 0, 1, 1]])
    assert counted(lambda: torchvision.ops.nms(boxes, zeros(1), 0.5)) == 0


# -- networks: what gates decide over and what they do not is all there is --------------------------------------------


class Standardised(nn.Conv2d):
    """A convolution whose weight is computed."""

    def forward(self, x):
        mean = self.weight.mean((1, 2, 3), keepdim=True)
        return self._conv_forward(
            x, (self.weight - mean) / (self.weight.std((1, 2, 3), keepdim=True) + 1e-5), self.bias
        )


class Transformed(nn.Module):
    """A fixed transform, a product with a buffer, between layers; and one over places, which channels pass through."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = nn.Linear(6, 8), nn.Linear(8, 5), nn.Linear(5, 3)
        self.gated = nn.Linear(6, 6)
        self.register_buffer("cosines", torch.randn(8, 8))
        self.register_buffer("places", torch.randn(4, 4))

    def forward(self, x):
        x = self.first(self.gated(x).relu()).relu() @ self.cosines
        return self.last((self.second(x).mT @ self.places).mT.relu())


class Interpolated(nn.Module):
    """Features times a matrix that is no parameter: channels that are gone are not multiplied."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv1d(3, 6, 1), nn.Conv1d(6, 2, 1)

    def forward(self, x):
        grid = torch.linspace(0, 1, 8 * 5, dtype=x.dtype).reshape(8, 5)
        return self.last(self.first(x) @ grid)


def heads(dim=8, number=2):
    """Attention written by hand with a head count that is fixed: its groups cannot be taken out."""

    def run(self, x):
        q, k, v = (
            layer(x).reshape(*x.shape[:2], number, dim // number).transpose(1, 2) for layer in (self.q, self.k, self.v)
        )
        scores = (q @ k.mT).softmax(-1)
        return self.last(self.out((scores @ v).transpose(1, 2).flatten(2)))

    return Net(
        run, last=nn.Linear(3, 2), q=nn.Linear(6, dim), k=nn.Linear(6, dim), v=nn.Linear(6, dim), out=nn.Linear(dim, 3)
    )


def with_lstm():
    def run(self, x):
        return self.last(self.lstm(self.first(self.gated(x)))[0])

    return Net(
        run, gated=nn.Linear(6, 6), first=nn.Linear(6, 4), lstm=nn.LSTM(4, 5, batch_first=True), last=nn.Linear(5, 3)
    )


def spectral():
    wrapped = parametrizations.spectral_norm(nn.Conv2d(4, 5, 3))
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), wrapped, nn.ReLU(), nn.Conv2d(5, 6, 1), nn.Conv2d(6, 2, 1))


def weight_norm():
    wrapped = parametrizations.weight_norm(nn.Conv2d(4, 5, 3))
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), wrapped, nn.ReLU(), nn.Conv2d(5, 6, 1), nn.Conv2d(6, 2, 1))


def standardised():
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), Standardised(4, 5, 3), nn.ReLU(), nn.Conv2d(5, 6, 1), nn.Conv2d(6, 2, 1)
    )


def vision_transformer():
    return torchvision.models.VisionTransformer(32, 8, 2, 4, 16, 24, num_classes=5)


def swin():
    return torchvision.models.SwinTransformer([4, 4], 8, [1, 1], [2, 2], [2, 2], num_classes=5)


SEQUENCE, IMAGE = (4, 6), (3, 8, 8)
NETS = {
    "mlp": (lambda: MLP(6, 5, 4, 3), SEQUENCE[1:]),
    "lenet": (lambda: LeNet5(3), (1, 28, 28)),
    "wide resnet": (lambda: WideResNet(10, 1, 3), IMAGE),
    "encoder": (lambda: nn.TransformerEncoderLayer(6, 2, 8, batch_first=True), SEQUENCE),
    "weight norm": (weight_norm, IMAGE),
    "standardised weights": (standardised, IMAGE),
    "products with buffers": (Transformed, SEQUENCE),
    "products with what is no parameter": (Interpolated, (3, 8)),
    "attention by hand": (heads, SEQUENCE),
    "recurrent": (with_lstm, SEQUENCE),
    "vision transformer": (vision_transformer, (3, 32, 32)),
    "swin": (swin, (3, 32, 32)),
    "mobilenet": (lambda: torchvision.models.mobilenet_v3_small(num_classes=5), (3, 32, 32)),
}
each_net = pytest.mark.parametrize("kind", NETS)


def build(kind):
    torch.manual_seed(0)
    net, shape = NETS[kind][0]().eval(), NETS[kind][1]
    x = torch.randn(2, *shape)
    return net, x, sparsify(net, x)


@each_net
def test_a_networks_cost_is_what_the_counter_finds(kind):
    net, x, _ = build(kind)
    hidden = 4 * 4 * 5 * (4 + 5) if kind == "recurrent" else 0  # fused, where the counter sees nothing
    seen = macs(lambda: net(x)) // 2
    assert cost(net, x).macs in {seen, seen + hidden}
    assert cost(net, x).macs >= hidden


@each_net
def test_gated_and_ungated_parts_are_all_of_it(kind):
    net, x, sparse = build(kind)
    live = sparse.live_cost("macs")
    assert live.total == pytest.approx(cost(net, x).macs, rel=1e-12)
    everything = {group.name: torch.ones(group.size, dtype=torch.float64) for group in sparse.groups}
    assert live.amount(everything).item() == pytest.approx(live.total, rel=1e-12)


@each_net
def test_what_a_selection_leaves_is_what_its_run_costs(kind):
    """The subnetwork itself is counted while it runs; no group narrowed by less than it could be."""
    _, x, sparse = build(kind)
    gates = {group.name: (torch.arange(group.size) % 2).float() for group in sparse.groups}
    with torch.no_grad():
        left = counted(lambda: sparse.run(gates, x)) / 2
    expected = sparse.live_cost("macs").amount({name: (z != 0).double() for name, z in gates.items()})
    assert left == pytest.approx(expected.item(), rel=1e-9)


def test_spectral_norm_is_computed_once_a_batch_and_counted():
    """Its power iteration is products of vectors, which the counter does not know; the rest is the same."""
    torch.manual_seed(0)
    net, x = spectral().eval(), torch.randn(2, *IMAGE)
    sigma = 5 * 4 * 9 + 5  # uᵀ W v, in evaluation
    expected = (macs(lambda: net(x)) + sigma) / 2
    assert cost(net, x).macs == round(expected)
    assert sparsify(net, x).live_cost("macs").total == pytest.approx(expected, rel=1e-12)


# -- what stays when a group is left dense ----------------------------------------------------------------------------


def test_products_of_a_group_that_is_left_dense_stay_with_the_ungated_part():
    net, x, sparse = build("encoder")
    whole = sparse.structure
    assert "self_attn.unit" in {product.group for product in whole.products}
    dense = whole.without({"self_attn.unit": "as an example"})
    assert sum(p.macs.sum() for p in dense.products) == sum(p.macs.sum() for p in whole.products)
    live = LiveCost(dense, "macs")
    assert live.total == cost(net, x).macs
    closed = {group.name: zeros(group.size, dtype=torch.float64) for group in dense.groups}
    left = LiveCost(whole, "macs").amount({**closed, "self_attn.unit": torch.ones(2, dtype=torch.float64)})
    assert live.amount(closed).item() == left.item() > 0


@each_net
def test_patterns_count_what_runs_in_the_modules_they_match(kind):
    """Layers with parameters, and modules without any in which features meet, are all there is."""
    net, x, sparse = build(kind)
    layers = {layer_of(name) for name in sparse.structure.shapes}
    elsewhere = {p.layer: float(p.macs.sum()) for p in sparse.structure.products if p.layer not in layers}
    assert elsewhere.keys() <= {name for name, _ in net.named_modules()}
    parts = [sparse.live_cost("macs", layer).total for layer in layers]
    assert sum(parts) + sum(elsewhere.values()) == pytest.approx(cost(net, x).macs, rel=1e-12)


def test_several_inputs_and_any_number_of_rows():
    net = nn.Bilinear(3, 4, 5)
    for rows in (1, 2, 7):
        assert cost(net, (zeros(rows, 3), zeros(rows, 4))).macs == 60
