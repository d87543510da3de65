"""The distribution of the number of open gates, against enumeration and the binomial."""

import itertools

import numpy as np
import pytest
from scipy import stats

from l0bayes import gate_table
from l0bayes.posterior.model_size import size_distribution


def test_against_enumeration():
    probs = np.array([0.1, 0.5, 0.9, 1.0, 0.0, 0.3])
    expected = np.zeros(7)
    for bits in itertools.product([0, 1], repeat=6):
        expected[sum(bits)] += np.prod(np.where(bits, probs, 1 - probs))
    np.testing.assert_allclose(size_distribution(probs), expected, atol=1e-15)


def test_thousands_of_gates():
    np.testing.assert_allclose(
        size_distribution(np.full(3000, 0.3)), stats.binom(3000, 0.3).pmf(range(3001)), atol=1e-12
    )


def test_of_a_table(classified):
    table = gate_table(classified)
    sizes = size_distribution(table["p_nonzero"])
    assert len(sizes) == len(table) + 1
    assert sizes @ np.arange(len(sizes)) == pytest.approx(table["p_nonzero"].sum())


@pytest.fixture
def classified():
    from posterior_guides import classifier  # noqa: PLC0415 (beside this file)

    return classifier()[1]


@pytest.mark.parametrize("probs", [[0.5, 1.2], [-0.1], [float("nan")]])
def test_no_probabilities(probs):
    with pytest.raises(ValueError, match=r"probs must be in \[0, 1\]"):
        size_distribution(probs)
