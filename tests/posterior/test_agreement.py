"""How far several guides agree, against hand-made tables."""

import numpy as np
import pandas as pd
import pytest
import torch
from posterior_guides import classifier
from scipy.stats import spearmanr

from l0bayes import gate_table, sparsify
from l0bayes.inference import HardConcreteGuide
from l0bayes.models import MLP
from l0bayes.posterior.agreement import agreement


def table(probs, opened):
    sites = ["a"] * 3 + ["b"] * 2
    return pd.DataFrame({"site": sites, "index": [0, 1, 2, 0, 1], "p_nonzero": probs, "open": opened})


ONE = table([0.1, 0.5, 0.9, 0.2, 0.8], [False, True, True, False, True])
OTHER = table([0.3, 0.2, 0.8, 0.6, 0.6], [False, False, True, True, True])


def test_numbers_worked_out_by_hand():
    found = agreement({"one": ONE, "other": OTHER}).set_index("site")
    assert found.loc[["a", "b", "all"], "gates"].tolist() == [3, 2, 5]
    assert found["mean_difference"].tolist() == pytest.approx([0.2, 0.3, 0.24])
    assert found["largest_difference"].tolist() == pytest.approx([0.3, 0.4, 0.4])
    assert found["agreement"].tolist() == pytest.approx([2 / 3, 1 / 2, 3 / 5])
    assert found["overlap"].tolist() == pytest.approx([1 / 2, 1 / 2, 1 / 2])
    assert found["rank_correlation"]["a"] == pytest.approx(0.5)
    assert np.isnan(found["rank_correlation"]["b"])
    assert found["rank_correlation"]["all"] == pytest.approx(spearmanr(ONE.p_nonzero, OTHER.p_nonzero).statistic)
    assert found["first"].tolist() == ["one"] * 3
    assert found["second"].tolist() == ["other"] * 3


def test_every_pair_once():
    found = agreement({"x": ONE, "y": OTHER, "z": ONE})
    assert found.query("site == 'all'")[["first", "second"]].to_numpy().tolist() == [["x", "y"], ["x", "z"], ["y", "z"]]
    same = found.query("first == 'x' and second == 'z' and site == 'all'").iloc[0]
    assert (same["agreement"], same["overlap"], same["largest_difference"]) == (1, 1, 0)
    assert same["rank_correlation"] == pytest.approx(1)


def test_nothing_open_in_either_overlaps():
    closed = ONE.assign(open=False)
    assert (agreement({"x": closed, "y": closed})["overlap"] == 1).all()


def test_guides_in_a_mapping():
    one, other = classifier()[1], classifier()[1]
    with torch.no_grad():
        other.parameter("log_alpha.fc2.input")[0] = 5.0
    found = gate_table({"one": one, "other": other})
    assert found["site"].tolist() == ["fc1.input", "fc2.input", "all"]
    assert found["agreement"].tolist() == pytest.approx([1, 2 / 3, 6 / 7])


def test_what_cannot_be_compared():
    guide = classifier()[1]
    with pytest.raises(ValueError, match="a comparison takes at least two guides; got 1"):
        gate_table({"one": guide})
    larger = HardConcreteGuide(sparsify(MLP(5, 3, 2), torch.zeros(2, 5), gates="input"))
    with pytest.raises(ValueError, match="'larger' has other gates than 'one'"):
        gate_table({"one": guide, "larger": larger})
