"""Plates: shapes, mini-batches, and latent variables that belong to single data."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from guide_models import sites
from pyro import poutine
from pyro.infer import SVI, TraceMeanField_ELBO

from l0bayes import L0Prior
from l0bayes.errors import StructureError
from l0bayes.inference import ClosedFormKL_ELBO, HardConcreteGuide

ELBOS = pytest.mark.parametrize("elbo", [TraceMeanField_ELBO, ClosedFormKL_ELBO])


def nested():
    with pyro.plate("rows", 3, dim=-2):
        pyro.sample("row", dist.Normal(0.0, 1.0))
        with pyro.plate("columns", 4, dim=-1):
            pyro.sample("cell", L0Prior(0.5))
            pyro.sample("cells", dist.Normal(torch.zeros(2), 1.0).to_event(1))


def test_shapes_are_the_models():
    guide = HardConcreteGuide(nested)
    found, wanted = sites(guide), sites(nested)
    for name in ("row", "cell", "cells"):
        assert found[name]["value"].shape == wanted[name]["value"].shape
        assert found[name]["fn"].batch_shape == wanted[name]["fn"].batch_shape
        assert found[name]["fn"].event_shape == wanted[name]["fn"].event_shape
        assert [f.name for f in found[name]["cond_indep_stack"]] == [f.name for f in wanted[name]["cond_indep_stack"]]
    assert guide.get_parameter("log_alpha.cell").shape == (3, 4)
    assert guide.get_parameter("loc.cells").shape == (3, 4, 2)
    assert guide.gates()["cell"].batch_shape == (3, 4)
    assert guide.point()["cell"].shape == (3, 4)


@ELBOS
def test_every_cell_is_paid_for_once(elbo):
    guide = HardConcreteGuide(nested, init_scale=1.0, init_open=0.3)
    with torch.no_grad():
        for name in ("row", "cells"):
            guide.get_parameter(f"loc.{name}").zero_()
    loss = elbo().differentiable_loss(nested, guide)
    assert loss.item() == pytest.approx(12 * 0.5 * 0.3, rel=1e-5)  # the normals sit on their priors


N, B = 10, 4


def local(y, index=None):
    """One latent gate and one latent weight a datum, in mini-batches."""
    shared = pyro.sample("shared", dist.Normal(0.0, 1.0))
    with pyro.plate("data", N, subsample_size=None if index is not None else B, subsample=index) as chosen:
        gate = pyro.sample("gate", L0Prior(0.5))
        weight = pyro.sample("weight", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        return pyro.sample("y", dist.Normal(shared + gate * weight.sum(-1), 1.0), obs=y[chosen])


def local_guide(y, **options):
    return HardConcreteGuide(local, args=(y,), **options)


def test_every_datum_has_parameters_though_a_batch_sees_a_few():
    guide = local_guide(torch.randn(N))
    shapes = {name: tuple(p.shape) for name, p in guide.named_parameters()}
    assert shapes == {
        "loc.shared": (),
        "log_scale.shared": (),
        "log_alpha.gate": (N,),
        "loc.weight": (N, 2),
        "log_scale.weight": (N, 2),
    }
    assert guide.gates()["gate"].batch_shape == (N,)
    assert guide.median()["weight"].shape == (N, 2)
    assert guide.quantiles([0.1, 0.5, 0.9])["gate"].shape == (3, N)


@ELBOS
def test_a_step_trains_the_batch_and_nobody_else(elbo):
    y = torch.randn(N)
    guide = local_guide(y)
    loss = elbo().differentiable_loss(local, guide, y)
    guide_trace = poutine.trace(guide).get_trace(y)
    assert guide_trace.nodes["gate"]["value"].shape == (B,)
    loss.backward()
    touched = guide.get_parameter("loc.weight").grad.abs().sum(-1).nonzero().flatten()
    assert len(touched) == B
    assert torch.equal(touched, guide.get_parameter("log_alpha.gate").grad.nonzero().flatten())


@ELBOS
def test_the_kl_of_a_batch_is_scaled_to_all_data(elbo):
    torch.set_default_dtype(torch.float64)
    y = torch.randn(N)
    guide = local_guide(y, init_open=0.3, init_scale=1.0)
    with torch.no_grad():
        guide.get_parameter("loc.weight").zero_()
        guide.get_parameter("loc.shared").zero_()
    torch.manual_seed(5)
    loss = elbo().loss(local, guide, y)
    torch.manual_seed(5)
    guide_trace = poutine.trace(guide).get_trace(y)
    model_trace = poutine.trace(poutine.replay(local, trace=guide_trace)).get_trace(y)
    model_trace.compute_log_prob()
    assert loss + model_trace.nodes["y"]["log_prob_sum"].item() == pytest.approx(N * 0.5 * 0.3, rel=1e-10)


def data_plate(_y, index=None):
    return pyro.plate("data", N, subsample=index)


@pytest.mark.parametrize("index", [[7, 0, 3, 9], [2], list(range(N)), list(reversed(range(N)))])
def test_the_callers_own_mini_batches_reach_the_right_parameters(index):
    y, index = torch.randn(N), torch.tensor(index)
    guide = local_guide(y, create_plates=data_plate, others="point")
    with torch.no_grad():
        guide.get_parameter("loc.weight").copy_(torch.arange(2 * N).reshape(N, 2))
        guide.get_parameter("log_alpha.gate").copy_(torch.where(torch.arange(N) % 2 == 0, 50.0, -50.0))
    draws = guide(y, index)
    assert torch.equal(draws["weight"], torch.arange(2.0 * N).reshape(N, 2)[index])
    assert torch.equal(draws["gate"], (index % 2 == 0).float())


def test_stock_svi_trains_local_latents():
    y = torch.cat([torch.full((N // 2,), 4.0), torch.zeros(N // 2)])
    guide = local_guide(y)
    svi = SVI(local, guide, pyro.optim.Adam({"lr": 0.05}), TraceMeanField_ELBO())
    for _ in range(400):
        svi.step(y)
    share = guide.gates()["gate"].prob_nonzero.detach()
    assert share[: N // 2].min() > share[N // 2 :].max()


def test_a_batch_of_another_size_than_the_first():
    y = torch.randn(N)
    guide = local_guide(y, create_plates=data_plate)
    assert [len(guide(y, torch.arange(size))["gate"]) for size in (1, 4, 9, 10)] == [1, 4, 9, 10]


def test_sequential_plates_are_refused():
    def model():
        for i in pyro.plate("data", 3):
            pyro.sample(f"z{i}", L0Prior(1.0))

    with pytest.raises(StructureError, match="sequential plate 'data'"):
        HardConcreteGuide(model)
