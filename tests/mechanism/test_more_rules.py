"""Recurrent layers, scatters, matrices with vectors, einsum, experts, and weights that are computed."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from l0bayes import compact, sparsify
from l0bayes.inference import HardConcreteGuide, load, predict, save
from l0bayes.testing import check_sparsify

ROWS = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
STEPS = torch.randn(4, 7, 5, generator=torch.Generator().manual_seed(1))


def sizes(sparse):
    return {group.name: group.size for group in sparse.groups}


# -- recurrent --------------------------------------------------------------------------------------------------------


class Recurrent(nn.Module):
    def __init__(self, kind, **options):
        super().__init__()
        self.pre, self.rnn = nn.Linear(5, 6), kind(6, 8, batch_first=True, **options)
        self.fc = nn.Linear(16 if options.get("bidirectional") else 8, 3)

    def forward(self, x):
        return self.fc(self.rnn(self.pre(x))[0])


KINDS = [nn.LSTM, nn.GRU, nn.RNN]
OPTIONS = [{}, {"num_layers": 2}, {"num_layers": 2, "bidirectional": True}, {"bias": False}]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_recurrent_layers_lose_inputs_and_states(kind, options):
    sparse = check_sparsify(Recurrent(kind, **options), STEPS)
    assert sizes(sparse) == {"pre.unit": 6, "rnn.weight_ih_l0.unit": 8}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_recurrent_layers_in_float32_as_the_fast_kernels_run_them(kind, tmp_path):
    torch.manual_seed(0)
    sparse = sparsify(Recurrent(kind), STEPS)
    assert sizes(sparse) == {"pre.unit": 6, "rnn.weight_ih_l0.unit": 8}
    guide = HardConcreteGuide(sparse)
    with torch.no_grad():
        guide.parameter("log_alpha.rnn.weight_ih_l0.unit").copy_(torch.linspace(-5, 5, 8))
    small = compact(sparse, guide)
    assert small.rnn.hidden_size < 8
    assert small.rnn.weight_hh_l0.shape[1] == small.rnn.hidden_size
    with torch.no_grad():
        torch.testing.assert_close(small(STEPS), predict(sparse, guide, STEPS), rtol=1e-5, atol=1e-5)
        again = load(save(small, tmp_path / "small.safetensors"), Recurrent(kind))
        torch.testing.assert_close(again(STEPS), small(STEPS))


@pytest.mark.parametrize("kind", [nn.LSTMCell, nn.GRUCell, nn.RNNCell], ids=lambda kind: kind.__name__)
def test_cells(kind):
    class Cells(nn.Module):
        def __init__(self):
            super().__init__()
            self.pre, self.cell, self.fc = nn.Linear(5, 6), kind(6, 8), nn.Linear(8, 3)

        def forward(self, x):
            state = None
            for step in x.unbind(1):
                state = self.cell(self.pre(step), state)
            return self.fc(state[0] if isinstance(state, tuple) else state)

    assert sorted(sizes(check_sparsify(Cells(), STEPS)).values()) == [6, 8]


# -- products ---------------------------------------------------------------------------------------------------------


class Bilinear(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.both, self.fc = nn.Linear(5, 6), nn.Linear(5, 7), nn.Bilinear(6, 7, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.fc(self.both(self.a(x).relu(), self.b(x).relu()).relu())


def test_bilinear_layers_lose_outputs_and_first_inputs():
    sparse = check_sparsify(Bilinear(), ROWS)
    assert sizes(sparse) == {"a.unit": 6, "both.unit": 8}
    assert "second input of 'both'" in sparse.structure.dense["b"]


class Vectors(nn.Module):
    """A parameter that is a vector reads what a matrix, applied row by row, makes."""

    def __init__(self):
        super().__init__()
        self.first, self.fc = nn.Parameter(torch.randn(6, 5)), nn.Linear(6, 7)
        self.last = nn.Parameter(torch.randn(7))

    def forward(self, x):
        return self.fc(torch.stack([torch.mv(self.first, row) for row in x]).relu()).relu() @ self.last


def test_matrices_with_vectors():
    sparse = check_sparsify(Vectors(), ROWS)
    assert sizes(sparse) == {"first.unit": 6, "fc.unit": 7}
    assert sparse.structure.dense == {"last": "it makes no features of its own"}


class Einsum(nn.Module):
    """Attention whose weights have a dimension of heads."""

    def __init__(self):
        super().__init__()
        for name in "qkv":
            self.register_parameter(name, nn.Parameter(torch.randn(5, 3, 4)))
        self.out, self.fc = nn.Parameter(torch.randn(3, 4, 6)), nn.Linear(6, 2)

    def forward(self, x):
        q, k, v = (torch.einsum("bnd,dhk->bhnk", x, w) for w in (self.q, self.k, self.v))
        mixed = torch.einsum("bhnm,bhmk->bnhk", torch.einsum("bhnk,bhmk->bhnm", q, k).softmax(-1), v)
        return self.fc(torch.einsum("bnhk,hkd->bnd", mixed, self.out).relu())


def test_einsum_with_heads_of_its_own():
    assert sizes(check_sparsify(Einsum(), STEPS)) == {"q.unit": 3, "out.unit": 6}


class Experts(nn.Module):
    """Three experts in one tensor: a hidden unit goes in all of them."""

    def __init__(self):
        super().__init__()
        self.gate, self.fc = nn.Linear(5, 3), nn.Linear(6, 2)
        self.w1, self.w2 = nn.Parameter(torch.randn(3, 5, 8)), nn.Parameter(torch.randn(3, 8, 6))

    def forward(self, x):
        share = self.gate(x).softmax(-1)
        found = torch.bmm(torch.bmm(x.expand(3, *x.shape), self.w1).relu(), self.w2)
        return self.fc((share.T[..., None] * found).sum(0).relu())


def test_experts_lose_units_together():
    assert sizes(check_sparsify(Experts(), ROWS)) == {"w1.unit": 8, "w2.unit": 6}


# -- scatters ---------------------------------------------------------------------------------------------------------

EDGES = torch.tensor([[0, 1, 2, 3, 0, 2, 1, 3], [1, 0, 3, 2, 2, 0, 3, 1]])


def _over(m, e):
    return e[:, None].expand_as(m)


SCATTERS = {
    "index_add": lambda h, m, e: torch.zeros_like(h).index_add(0, e, m),
    "index_add_": lambda h, m, e: h.clone().index_add_(0, e, m),
    "index_copy": lambda h, m, e: torch.zeros_like(h).index_copy(0, e[:4], m[:4]),
    "scatter_add": lambda h, m, e: torch.zeros_like(h).scatter_add(0, _over(m, e), m),
    "scatter_add_": lambda h, m, e: torch.zeros_like(h).scatter_add_(0, _over(m, e), m),
    "scatter_reduce": lambda h, m, e: torch.zeros_like(h).scatter_reduce(0, _over(m, e), m, "amax"),
    "index_put": lambda h, m, e: torch.zeros_like(h).index_put((e,), m, accumulate=True),
    "assignment": lambda h, m, e: _assigned(h.clone(), e[:2], m[:2]),
}


def _assigned(h, where, value):
    h[where] = value
    return h


class Graph(nn.Module):
    def __init__(self, scatter):
        super().__init__()
        self.a, self.b, self.scatter = nn.Linear(5, 6), nn.Linear(6, 3), scatter

    def forward(self, x, edges):
        h = self.a(x).relu()
        return self.b(self.scatter(h, h[edges[0]], edges[1]))


@pytest.mark.parametrize("scatter", SCATTERS.values(), ids=SCATTERS)
def test_messages_along_edges(scatter):
    assert sizes(check_sparsify(Graph(scatter), (ROWS, EDGES))) == {"a.unit": 6}


class Mixed(Graph):
    """Adds features up along the dimension that holds them."""

    def forward(self, x, edges):  # noqa: ARG002
        h = self.a(x).relu()
        return self.b(torch.zeros_like(h).index_add(1, torch.tensor([1, 0, 2, 3, 5, 4]), h))


def test_features_that_are_sent_to_other_places_stay():
    with pytest.raises(Exception, match="says which of its features to write"):
        sparsify(Mixed(None), (ROWS, EDGES))


# -- weights that are computed ----------------------------------------------------------------------------------------


class Parametrised(nn.Module):
    def __init__(self, norm):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(5, 8), norm(nn.Linear(8, 6)), nn.Linear(6, 3)

    def forward(self, x):
        return self.c(self.b(self.a(x).relu()).relu())


def test_weight_norm_runs_on_the_rows_that_are_left():
    sparse = check_sparsify(Parametrised(weight_norm), ROWS)
    assert sizes(sparse) == {"b.unit": 6}
    assert "the weight that reads it in 'b' is not a parameter of its own" in sparse.structure.dense["a"]


def test_a_norm_of_the_whole_weight_leaves_it_whole():
    with pytest.raises(Exception, match="no layer that can be gated"):
        sparsify(Parametrised(spectral_norm), ROWS)


class Standardised(nn.Conv2d):
    def forward(self, x):
        mean, var = self.weight.mean((1, 2, 3), keepdim=True), self.weight.var((1, 2, 3), keepdim=True)
        return F.conv2d(x, (self.weight - mean) / (var + 1e-5).sqrt(), self.bias)


def test_standardised_weights_lose_rows():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(3, 8, 3), Standardised(8, 6, 3), nn.Linear(6, 2)

        def forward(self, x):
            return self.c(self.b(self.a(x).relu()).relu().mean((2, 3)))

    sparse = check_sparsify(Net(), torch.randn(2, 3, 9, 9))
    assert sizes(sparse) == {"b.unit": 6}
    assert "not a parameter of its own" in sparse.structure.dense["a"]


# -- heads that share -------------------------------------------------------------------------------------------------


class Grouped(nn.Module):
    """Attention of six heads of queries that share keys and values."""

    def __init__(self, shared, how):
        super().__init__()
        self.shared, self.how = shared, how
        self.q, self.o, self.last = nn.Linear(5, 24), nn.Linear(24, 6), nn.Linear(6, 2)
        self.k, self.v = nn.Linear(5, 4 * shared), nn.Linear(5, 4 * shared)

    def forward(self, x):
        q, k, v = (layer(x).unflatten(-1, (-1, 4)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        if self.how == "repeated":
            k, v = (one.repeat_interleave(6 // self.shared, 1) for one in (k, v))
        if self.how == "written out":
            k, v = (one[:, :, None].expand(-1, -1, 6 // self.shared, -1, -1).flatten(1, 2) for one in (k, v))
            mixed = (q @ k.transpose(2, 3)).softmax(-1) @ v
        else:
            mixed = F.scaled_dot_product_attention(q, k, v, enable_gqa=self.how == "grouped")
        return self.last(self.o(mixed.transpose(1, 2).flatten(2)).relu())


WAYS = ["grouped", "repeated", "written out"]


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("shared", [2, 3])
def test_groups_of_heads_go_with_the_keys_and_values_that_they_share(shared, how):
    sparse = check_sparsify(Grouped(shared, how), STEPS)
    assert sizes(sparse) == {"q.unit": shared, "o.unit": 6}


@pytest.mark.parametrize("how", WAYS)
def test_heads_that_all_share_keys_and_values_go_one_by_one(how):
    sparse = check_sparsify(Grouped(1, how), STEPS)
    assert sizes(sparse) == {"q.unit": 6, "o.unit": 6}
    assert "all heads in" in sparse.structure.dense["k"]
