"""``fit`` with gates that are drawn in each step, which these tests are about."""

from functools import partial

from l0bayes import inference

fit = partial(inference.fit, selection="svi")
