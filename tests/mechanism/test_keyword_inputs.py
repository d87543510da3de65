"""Networks that take keyword and nested inputs, and return more than a tensor."""

from collections import UserDict
from dataclasses import dataclass

import pytest
import torch
from pyro import poutine
from torch import Tensor, nn

from l0bayes import compact, sparsify, to_arviz
from l0bayes.compat import tree_leaves, tree_map_tensors
from l0bayes.errors import DataError, StructureError
from l0bayes.inference import ClosedFormKL_ELBO, HardConcreteGuide, TensorBatches, evaluate, fit, predict
from l0bayes.inputs import Inputs
from l0bayes.models import Classifier, LossLikelihood, Regressor
from l0bayes.outputs import chosen
from l0bayes.posterior.cost import cost
from l0bayes.testing import check_sparsify

ROWS = 24


@dataclass
class Given:
    left: Tensor
    scale: float


@dataclass(frozen=True)
class Returned:
    logits: Tensor
    hidden: Tensor
    loss: Tensor | None = None


class Net(nn.Module):
    """Averages embeddings over what a mask leaves; its own loss if it has labels."""

    def __init__(self):
        super().__init__()
        self.table, self.fc1, self.fc2 = nn.Embedding(20, 12), nn.Linear(12, 10), nn.Linear(10, 3)

    def forward(self, ids=None, *, mask=None, labels=None):
        weights = mask / mask.sum(-1, keepdim=True)
        pooled = (self.table(ids) * weights[..., None]).sum(1)
        hidden = self.fc1(pooled).relu()
        logits = self.fc2(hidden)
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return {"logits": logits, "nested": (hidden * 2,), "loss": loss} if loss is not None else {"logits": logits}


def batch(rows=ROWS, seed=0):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(20, (rows, 7), generator=generator)
    mask = torch.ones(rows, 7)
    mask[rows // 2 :, 4:] = 0
    return {"ids": ids, "mask": mask}


def labels(rows=ROWS):
    return torch.arange(rows) % 3


@pytest.fixture
def gated():
    torch.manual_seed(0)
    return sparsify(Net(), batch(2), code_cost=0.001)


def test_masked_run_and_compacted_networks_agree():
    sparse = check_sparsify(Net(), batch(3))
    assert {group.name for group in sparse.groups} == {"table.unit", "fc1.unit"}


def test_an_example_by_position_is_the_same():
    class Positional(Net):
        def forward(self, ids, mask):
            return super().forward(ids, mask=mask)["logits"]

    one, other = (check_sparsify(net, x) for net, x in ((Positional(), tuple(batch(2).values())), (Net(), batch(2))))
    assert [(g.name, g.size) for g in one.groups] == [(g.name, g.size) for g in other.groups]


class Nested(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(5, 8), nn.Linear(8, 2)

    def forward(self, given, more):
        hidden = self.fc1(given.left * given.scale + more["a"][0]).relu()
        return Returned(self.fc2(hidden), self.fc2(hidden) * 2)


@pytest.mark.parametrize("kind", [dict, UserDict])
def test_what_is_in_dataclasses_and_mappings_is_seen(kind):
    x = {"given": Given(torch.randn(3, 5), 0.5), "more": kind({"a": [torch.randn(3, 5)]})}
    sparse = check_sparsify(Nested(), x).float()
    assert [group.size for group in sparse.groups] == [8]
    guide = HardConcreteGuide(sparse)
    small = compact(sparse, guide)
    torch.testing.assert_close(predict(sparse, guide, x, output="logits"), small(**x).logits)
    assert cost(small, x).macs == cost(sparse.net, x).macs


def test_containers_that_torch_does_not_know_of():
    tree = {
        "a": Given(torch.ones(2), 3.0),
        "b": [UserDict({"c": torch.zeros(1)}), Returned(torch.ones(1), torch.ones(1))],
    }
    assert [leaf for leaf in tree_leaves(tree) if not isinstance(leaf, Tensor)] == [3.0, None]
    twice = tree_map_tensors(lambda x: x + 1, tree)
    assert twice["a"].left.tolist() == [2, 2]
    assert twice["b"][0]["c"].tolist() == [1]
    assert twice["b"][1].logits.tolist() == [2]
    assert tree["a"].left.tolist() == [1, 1]


# -- likelihoods, training, prediction ------------------------------------------------------------------------------


def loader(*, mapping=True):
    x, y = batch(), labels()
    if mapping:
        return [{**{k: v[rows] for k, v in x.items()}, "labels": y[rows]} for rows in torch.arange(ROWS).split(8)]
    return TensorBatches(x, y, 8, shuffle=True)


@pytest.mark.parametrize("mapping", [True, False])
def test_fit_learns_from_batches_that_are_mappings(mapping, gated):
    model = Classifier(gated, ROWS, output="logits")
    guide = HardConcreteGuide(model)
    before = evaluate(model, guide, loader())
    found = fit(
        model, guide, loader(mapping=mapping), validation_loader=loader(), epochs=30, lr=0.05, selection="svi",
        progress=False,
    )  # fmt: skip
    assert found.history["validation_error"].iloc[-1] < min(before, 0.4)
    small = compact(model, guide)
    torch.testing.assert_close(small(**batch())["logits"], predict(model, guide, batch()), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(predict(model, guide, batch(), batch_size=5), predict(model, guide, batch()))
    assert predict(model, guide, {**batch(), "labels": labels()}).shape == (ROWS, 3)


def test_a_loss_of_ones_own_is_the_classifiers_likelihood(gated):
    """Same draws of gates, same ELBO, same gradients: cross entropy is −log p of a categorical."""
    both = Classifier(gated, 1000, output="logits"), LossLikelihood(gated, 1000)
    guide = HardConcreteGuide(both[0])
    found = []
    for model in both:
        gated.zero_grad(), guide.zero_grad()
        torch.manual_seed(1)
        loss = ClosedFormKL_ELBO().differentiable_loss(model, guide, {**batch(), "labels": labels()})
        loss.backward()
        found.append((loss, [p.grad.clone() for p in [*gated.net.parameters(), *guide.parameters()]]))
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-4)


def test_fit_with_a_loss_of_ones_own(gated):
    model = LossLikelihood(gated, ROWS)
    guide = HardConcreteGuide(model)
    found = fit(model, guide, loader(), validation_loader=loader(), epochs=30, lr=0.05, progress=False)
    assert found.history["validation_error"].iloc[-1] < 0.7 * found.history["validation_error"].iloc[0]
    assert predict(model, guide, batch()).shape == (ROWS, 3)


def test_terms_make_a_mean_a_sum(gated):
    given = {**batch(), "labels": labels()}
    rows, terms = (LossLikelihood(gated.net, 100, terms=t) for t in (None, lambda b: 4 * len(b["labels"])))
    one, four = (poutine.trace(m).get_trace(given).log_prob_sum() for m in (rows, terms))
    torch.testing.assert_close(four, 4 * one)
    torch.testing.assert_close(one, -100 * gated.net(**given)["loss"])


@pytest.mark.parametrize("which", ["logits", 0, lambda returned: returned["logits"]], ids=["name", "place", "function"])
def test_outputs_by_name_place_or_function(which):
    outputs = {"logits": torch.ones(2)} if which != 0 else (torch.ones(2), None)
    assert chosen(outputs, which).tolist() == [1, 1]


def test_a_regressor_of_a_field_with_a_teacher():
    torch.manual_seed(0)
    x = {"given": Given(torch.randn(6, 5), 1.0), "more": {"a": [torch.zeros(6, 5)]}}
    net = Nested()
    sparse = sparsify(net, x)
    model = Regressor(sparse, 6, output="logits")
    guide = HardConcreteGuide(model)
    fit(model, guide, [(x, torch.randn(6, 2))], teacher=Nested(), epochs=2, selection="svi", progress=False)


# -- what is refused --------------------------------------------------------------------------------------------------


def test_a_key_that_the_network_does_not_take():
    with pytest.raises(StructureError, match=r"unexpected keyword argument 'maks'.*mapping is taken for keyword"):
        sparsify(Net(), {"ids": batch()["ids"], "maks": batch()["mask"]})


def test_a_key_that_the_network_needs():
    with pytest.raises(StructureError, match="example_input: Net does not run on 'ids'"):
        sparsify(Net(), {"ids": batch()["ids"]})


def test_a_mask_of_another_shape():
    with pytest.raises(StructureError, match=r"'ids' \(24, 7\), 'mask' \(24, 6\)"):
        sparsify(Net(), {**batch(), "mask": torch.ones(ROWS, 6)})


def test_a_mask_that_is_not_finite():
    with pytest.raises(StructureError, match="example_input: 'mask' must be finite"):
        sparsify(Net(), {**batch(), "mask": torch.full((ROWS, 7), torch.nan)})


def test_data_without_a_key_of_the_example(gated):
    with pytest.raises(DataError, match=r"x: Net does not run on rows of shape 'ids' \(7,\)"):
        predict(gated, HardConcreteGuide(gated), {"ids": batch()["ids"]}, output="logits")


def test_a_mapping_where_a_tensor_is_needed(gated):
    with pytest.raises(DataError, match=r"returns a dict with 'logits'; one tensor is needed. Say which by output="):
        predict(gated, HardConcreteGuide(gated), batch())
    with pytest.raises(DataError, match="output: the network returns a dict with 'logits', of which 'logit' gives"):
        predict(gated, HardConcreteGuide(gated), batch(), output="logit")


def test_rows_that_cannot_be_split():
    with pytest.raises(DataError, match="x: 'b' has 3 rows, and what comes before it 4"):
        list(Inputs.of({"a": torch.ones(4, 1), "b": torch.ones(3)}).split(2, "x"))


def test_what_has_one_row_goes_with_each_part():
    parts = list(Inputs.of({"a": torch.ones(4, 1), "b": torch.ones(1, 3), "c": torch.tensor(2.0)}).split(3, "x"))
    assert [part.described() for part in parts] == ["'a' (3, 1), 'b' (1, 3), 'c' ()", "'a' (1, 1), 'b' (1, 3), 'c' ()"]


def test_batches_without_targets(gated):
    for model in (Classifier(gated, ROWS, output="logits"), LossLikelihood(gated, ROWS)):
        guide = HardConcreteGuide(model)
        with pytest.raises(DataError, match=r"observes nothing|lacks 'labels'"):
            fit(model, guide, [batch()], epochs=1, progress=False)
        with pytest.raises(DataError, match="'labels'"):
            evaluate(model, guide, [batch()])


def test_a_loss_over_tokens_needs_its_terms(gated):
    model = LossLikelihood(gated, ROWS)
    with pytest.raises(DataError, match=r"several targets \(\(24, 7\)\); say how many terms"):
        model({**batch(), "labels": batch()["ids"]})


def test_a_loss_that_is_none(gated):
    with pytest.raises(DataError, match="loss must be one number"):
        LossLikelihood(gated, ROWS, "logits")({**batch(), "labels": labels()})


def test_a_loss_has_no_teacher_and_no_replicates(gated):
    model = LossLikelihood(gated, ROWS)
    guide = HardConcreteGuide(model)
    given = {**batch(), "labels": labels()}
    with pytest.raises(TypeError, match="knows its observations, such as Classifier; got LossLikelihood"):
        fit(model, guide, [given], teacher=Net(), epochs=1, progress=False)
    with pytest.raises(TypeError, match="knows a loss"):
        model.observation(torch.zeros(2, 3))
    with pytest.raises(DataError, match="'y' is a factor"):
        to_arviz(guide, 2, data=(given,))


def test_arviz_of_keyword_inputs(gated):
    guide = HardConcreteGuide(Classifier(gated, ROWS, output="logits"))
    found = to_arviz(guide, 3, data=({**batch(), "labels": labels()},))
    assert found["log_likelihood"]["y"].shape == (1, 3, ROWS)
