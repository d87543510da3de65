"""Networks whose course depends on integers and booleans of their data: followed along all courses, or refused."""

import pytest
import torch
from torch import nn

from l0bayes import sparsify
from l0bayes.errors import StructureError
from l0bayes.inputs import Inputs
from l0bayes.structure.courses import course_of, other_courses, variations
from l0bayes.testing import check_sparsify

IDS = torch.tensor([[3, 1, 4, 1, 5, 9], [2, 6, 5, 3, 5, 8]])


class Net(nn.Module):
    """Pools embeddings, over all positions in one course and over those that a mask leaves in another."""

    def __init__(self):
        super().__init__()
        self.table, self.fc1, self.fc2 = nn.Embedding(10, 6), nn.Linear(6, 8), nn.Linear(8, 2)

    def pooled(self, ids, mask):
        x = self.table(ids)
        return x.mean(1) if mask is None or mask.all() else (x * mask[..., None]).sum(1)

    def forward(self, ids, mask):
        return self.fc2(self.fc1(self.pooled(ids, mask)).relu())


def masks():
    full = torch.ones(2, 6, dtype=torch.int64)
    half = full.clone()
    half[1, 3:] = 0
    return full, half


@pytest.mark.parametrize("mask", masks(), ids=["all", "some"])
def test_a_mask_that_is_read_is_followed_along_both_courses(mask):
    sparse = check_sparsify(Net(), {"ids": IDS, "mask": mask})
    assert {group.name for group in sparse.groups} == {"table.unit", "fc1.unit"}


def test_both_courses_are_found():
    full, half = masks()
    net = Net().eval()
    (other,) = other_courses(net, Inputs.of((IDS, full)))
    assert course_of(net, other) == course_of(net, Inputs.of((IDS, half))) != course_of(net, Inputs.of((IDS, full)))


@pytest.mark.parametrize(
    "read", [lambda m: m.any().item(), lambda m: m.sum(1).tolist()[0] > 3, lambda m: torch.equal(m, m)]
)
def test_all_ways_to_read_an_integer(read):
    class Reads(Net):
        def pooled(self, ids, mask):
            return super().pooled(ids, mask if read(mask) else None)

    check_sparsify(Reads(), (IDS, masks()[1]))


class Fixed(Net):
    """Insists on the width of its embeddings, only where nothing is masked."""

    def pooled(self, ids, mask):
        x = self.table(ids)
        return x.mean(1).view(2, 6) if mask.all() else (x * mask[..., None]).sum(1)


def test_a_course_that_the_example_does_not_take_is_tried_out_too():
    sparse = sparsify(Fixed(), (IDS, masks()[1]))
    found = {group.name: group.padded for group in sparse.groups}
    assert found["fc1.unit"] is None
    assert "shape '[2, 6]' is invalid" in found["table.unit"]


class TwoLayers(Net):
    def __init__(self):
        super().__init__()
        self.other = nn.Linear(6, 8)


class Meets(TwoLayers):
    """Adds two layers up in one course alone."""

    def forward(self, ids, mask):
        x = self.table(ids).mean(1)
        one, other = self.fc1(x), self.other(x)
        return self.fc2((one + other if mask.all() else one.relu() * 2 + other.sum(-1, keepdim=True) * 0).relu())


def test_what_meets_in_another_course_is_coupled():
    sparse = sparsify(Meets(), (IDS, masks()[1]))
    makes = [part.tensor for group in sparse.groups for part in group.slices if not part.consumes]
    assert {"fc1.weight", "other.weight"} <= set(makes) or "other" in sparse.structure.dense


class Chooses(TwoLayers):
    """Runs one of two layers."""

    def forward(self, ids, mask):  # noqa: ARG002 (which it could read)
        x = self.table(ids).mean(1)
        return self.fc2((self.fc1(x) if ids.max() < 50 else self.other(x)).relu())


def test_layers_that_may_run_for_other_data_are_a_reason_to_refuse():
    with pytest.raises(StructureError, match="'other' did not run: which layers run may depend"):
        sparsify(Chooses(), (IDS, masks()[0]))


@pytest.mark.parametrize("decide", [lambda x: x.sum() > 0, lambda x: x.argmax(-1)[0] == 2, lambda x: (x > 0).any()])
def test_features_that_decide_are_refused(decide):
    class Decides(TwoLayers):
        def forward(self, ids, mask):  # noqa: ARG002 (which it could read)
            x = self.table(ids).mean(1)
            return self.fc2(self.fc1(x).relu() if decide(x) else self.other(x))

    with pytest.raises(StructureError, match="a tensor is read as numbers"):
        sparsify(Decides(), (IDS, masks()[0]))


def test_floating_inputs_that_decide_are_refused():
    with pytest.raises(StructureError, match="give masks as integers or booleans"):
        sparsify(Net(), (IDS, masks()[1].float()))


def test_variations_keep_kinds_and_shapes():
    given = Inputs.of({"ids": IDS, "mask": masks()[0], "x": torch.ones(2, 3), "flag": torch.tensor(True)})
    found = list(variations(given))
    assert len(found) == 4
    for other in found:
        assert other.shapes == given.shapes
        assert [x.dtype for x in other.tensors] == [x.dtype for x in given.tensors]
        assert set(other.kwargs["ids"].unique().tolist()) <= set(IDS.unique().tolist())
        assert torch.equal(other.kwargs["x"], given.kwargs["x"])


def test_a_network_without_readings_has_one_course():
    class Plain(Net):
        def pooled(self, ids, mask):
            return (self.table(ids) * mask[..., None]).sum(1)

    check_sparsify(Plain(), (IDS, masks()[1]))
    assert other_courses(Plain().eval(), Inputs.of((IDS, masks()[1]))) == []
