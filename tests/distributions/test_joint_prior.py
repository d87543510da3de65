"""JointL0Prior: what gates cost together, and what its own draws and log-densities are."""

import copy
import math

import pytest
import torch
from pyro.infer.util import torch_item
from torch.distributions import Bernoulli, kl_divergence
from torch.nn.functional import logsigmoid

from l0bayes import HardConcrete
from l0bayes.code_cost.expected_cost import ExpectedCost
from l0bayes.code_cost.joint_cost import JointCost
from l0bayes.distributions import JointL0Prior
from l0bayes.errors import PathwiseGradientError
from l0bayes.structure import GateGroup, Slice, Structure

SIZES = {"columns": 3, "rows": 2, "readers": 2}
COST = 0.7


@pytest.fixture(autouse=True)
def _double(_same_start):
    torch.set_default_dtype(torch.float64)


def structure(sizes=SIZES):
    """A matrix with a bias for each of its rows, and another one that reads the rows; all dimensions have gates."""
    tables = {name: torch.arange(size) for name, size in sizes.items()}
    slices = {
        "columns": [Slice("w", 1, tables["columns"], consumes=True)],
        "rows": [Slice(name, dim, tables["rows"], consumes=dim == 1) for name, dim in (("w", 0), ("b", 0), ("v", 1))],
        "readers": [Slice("v", 0, tables["readers"], consumes=False)],
    }
    groups = [GateGroup(name, "layer", size, tuple(slices[name]), torch.ones(size)) for name, size in sizes.items()]
    columns, rows, readers = sizes.values()
    shapes = {"w": torch.Size([rows, columns]), "b": torch.Size([rows]), "v": torch.Size([readers, rows])}
    return Structure(tuple(groups), {}, shapes)


def priors(inclusion=None, draws=(), sizes=SIZES, code_cost=COST):
    """One prior for each group of one run, which knows of the first draws."""
    of = structure(sizes)
    joint = JointCost(ExpectedCost(of, dict.fromkeys(of.shapes, code_cost)), list(sizes.values()))
    joint.note_draw(len(sizes) - 1, torch.zeros(list(sizes.values())[-1]))
    for position, draw in enumerate(draws):
        joint.note_draw(position, draw)
    like = {"dtype": torch.float64, "device": torch.device("cpu")}
    return [JointL0Prior(joint, k, size, inclusion, **like) for k, size in enumerate(sizes.values())]


def gates(dtype=torch.float64, sizes=SIZES):
    return [HardConcrete(torch.randn(size).to(dtype).requires_grad_()) for size in sizes.values()]


def by_hand(columns, rows, readers):
    """Expected cost: of two matrices and a bias."""
    return COST * rows.sum() * (columns.sum() + 1 + readers.sum())


def coins(p, inclusion):
    return p * (p / inclusion).log() + (1 - p) * ((1 - p) / (1 - inclusion)).log()


# -- the KL -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inclusion", [None, 0.01, 0.5, 0.9])
def test_the_kls_are_the_expected_cost_and_the_last_group_has_it(inclusion):
    guides = gates()
    kls = [kl_divergence(q, p) for q, p in zip(guides, priors(inclusion), strict=True)]
    probs = [q.prob_nonzero for q in guides]
    for kl, prob in zip(kls, probs, strict=True):
        cost = by_hand(*probs) / len(prob) if prob is probs[-1] else 0.0
        torch.testing.assert_close(kl, cost + (torch.zeros_like(prob) if inclusion is None else coins(prob, inclusion)))


def test_its_gradient_reaches_the_gates_of_all_groups():
    guides = gates()
    kls = [kl_divergence(q, p).sum() for q, p in zip(guides, priors(), strict=True)]
    log_alphas = [q.log_alpha for q in guides]
    exact = torch.autograd.grad(by_hand(*(q.prob_nonzero for q in guides)), log_alphas)
    torch.testing.assert_close(torch.autograd.grad(sum(kls), log_alphas), exact)
    assert all((gradient != 0).all() for gradient in exact)


def test_gradcheck():
    def total(*log_alphas):
        return sum(kl_divergence(HardConcrete(a), p).sum() for a, p in zip(log_alphas, priors(0.3), strict=True))

    assert torch.autograd.gradcheck(total, [torch.randn(size, requires_grad=True) for size in SIZES.values()])


def test_as_an_event_it_is_the_sum():
    guides = gates()
    apart = [kl_divergence(q, p).sum() for q, p in zip(guides, priors(), strict=True)]
    as_events = [kl_divergence(q.to_event(1), p.to_event(1)) for q, p in zip(guides, priors(), strict=True)]
    torch.testing.assert_close(as_events, apart)


def test_asking_again_in_any_order_changes_nothing():
    guides, asked = gates(), priors(0.3)
    once = [kl_divergence(q, p) for q, p in zip(guides, asked, strict=True)]
    for k in (2, 0, 0, 1, 2, 1, 2):
        assert torch.equal(kl_divergence(guides[k], asked[k]), once[k])


@pytest.mark.parametrize("order", [(2,), (0, 2), (1, 1, 2)])
def test_leaving_a_group_out_is_loud(order):
    guides, asked = gates(), priors()
    *asked_before, last = order
    for position in asked_before:
        kl_divergence(guides[position], asked[position])
    with pytest.raises(
        RuntimeError, match=r"all groups together, and . of those before group 2.*TraceMeanField_ELBO.*cost=\"paper\""
    ):
        kl_divergence(guides[last], asked[last])


@pytest.mark.parametrize("size", [0.0, 50.0, -50.0])
def test_the_ends(size):
    columns, rows, readers = [kl_divergence(HardConcrete(torch.full((q.shape()), size)), q).sum() for q in priors()]
    share = {0.0: HardConcrete(torch.tensor(0.0)).prob_nonzero.item(), 50.0: 1.0, -50.0: 0.0}[size]
    assert columns == rows == 0
    assert readers.item() == pytest.approx(COST * share * 2 * (share * 5 + 1), abs=1e-12)


def test_other_pairs_have_no_kl():
    prior = priors()[0]
    for q, p in ((Bernoulli(torch.full((3,), 0.5)), prior), (prior, HardConcrete(torch.zeros(3)))):
        with pytest.raises(NotImplementedError):
            kl_divergence(q, p)


# -- precision --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "rounding"),
    [(torch.float64, 1e-14), (torch.float32, 3e-7), (torch.float16, 2**-11), (torch.bfloat16, 2**-8)],
    ids=str,
)
def test_nothing_but_the_result_is_rounded(dtype, rounding):
    sizes = {"columns": 785, "rows": 301, "readers": 11}
    guides = gates(dtype, sizes)
    kls = [kl_divergence(q, p) for q, p in zip(guides, priors(sizes=sizes, code_cost=0.1), strict=True)]
    exact = by_hand(*(HardConcrete(q.log_alpha.detach().double()).prob_nonzero for q in guides))
    assert [kl.dtype for kl in kls] == [dtype] * 3
    each = torch.full((11,), exact.item() * 0.1 / COST / 11)
    torch.testing.assert_close(kls[-1].double(), each, rtol=1.01 * rounding, atol=0.0)


def test_gates_of_two_precisions_together():
    guides = gates()
    mixed = [guides[0], HardConcrete(guides[1].log_alpha.float()), guides[2]]
    kls = [kl_divergence(q, p) for q, p in zip(mixed, priors(), strict=True)]
    assert [kl.dtype for kl in kls] == [torch.float64, torch.float32, torch.float64]
    whole = [kl_divergence(q, p) for q, p in zip(guides, priors(), strict=True)]
    torch.testing.assert_close([kl.double() for kl in kls], whole, rtol=1e-6, atol=0.0)


# -- draws and log-densities ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inclusion", [None, 0.2])
def test_its_log_odds_given_the_draws_before(inclusion):
    """Those of the gate's cost if it and all others of its group are open."""
    odds = 0.0 if inclusion is None else math.log(inclusion / (1 - inclusion))
    draws = [torch.tensor([1.0, 0.0, 0.3]), torch.tensor([0.0, 1.0])]
    columns, rows, readers = priors(inclusion, draws)
    assert columns.code_cost.tolist() == [0.0] * 3
    assert rows.code_cost.tolist() == pytest.approx([COST * (2 + 1)] * 2)  # two of three columns are open
    assert readers.code_cost.tolist() == pytest.approx([COST] * 2)  # one of two rows is
    for prior in (columns, rows, readers):
        logit = odds - prior.code_cost
        torch.testing.assert_close(prior.logit_inclusion, logit)
        torch.testing.assert_close(prior.mean, logit.sigmoid())
        torch.testing.assert_close(prior.variance, logit.sigmoid() * (-logit).sigmoid())
        torch.testing.assert_close(prior.log_prob(torch.zeros(prior.shape())), logsigmoid(-logit))
        torch.testing.assert_close(prior.log_prob(torch.full(prior.shape(), 0.4)), logsigmoid(logit))


def test_draws_are_open_that_often():
    # Two binomial shares of 4,000 draws within 5 standard deviations: a false alarm in 800,000.
    rows = priors(draws=[torch.ones(3)])[1]
    draws = rows.sample((4000,))
    assert draws.shape == (4000, 2)
    assert set(draws.unique().tolist()) == {0.0, 1.0}
    error = (rows.mean * (1 - rows.mean) / 4000).sqrt()
    assert ((draws.mean(0) - rows.mean).abs() < 5 * error).all()


def test_a_gradient_through_the_value_is_refused():
    value = torch.full((3,), 0.5, requires_grad=True)
    with pytest.raises(PathwiseGradientError):
        priors()[0].log_prob(value).sum().backward()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_draws_of_gates_in_either_precision(dtype):
    columns, rows, _ = priors(draws=[torch.tensor([1.0, 0.0, 0.5], dtype=dtype)])
    assert torch_item(columns.log_prob(torch.ones(3, dtype=dtype)).sum()) == pytest.approx(3 * math.log(0.5))
    assert rows.code_cost.dtype == torch.float64  # of the reference
    assert rows.code_cost.tolist() == pytest.approx([COST * 3] * 2)


# -- shapes -----------------------------------------------------------------------------------------------------------


def test_it_has_one_shape():
    prior = priors()[1]
    assert (prior.batch_shape, prior.event_shape) == ((2,), ())
    assert prior.expand([2]) is prior
    assert prior.to_event(1).expand([]).base_dist is prior
    assert copy.deepcopy(prior).batch_shape == (2,)


@pytest.mark.parametrize("shape", [(3, 2), (1, 2), (4,)])
def test_expanding_it_is_refused_with_the_remedy(shape):
    with pytest.raises(ValueError, match=r"one draw of 2 gates.*without vectorize_particles.*parallel=False"):
        priors()[1].expand(shape)
    with pytest.raises(ValueError, match="one draw of 2 gates"):
        priors()[1].to_event(1).expand_by([5])
