"""What every test starts from: one seed, the default dtype, and reproducible hypothesis examples."""

import signal

import pyro
import pytest
import torch
from hypothesis import settings

settings.register_profile("l0bayes", derandomize=True, deadline=None, max_examples=50)
settings.load_profile("l0bayes")


@pytest.fixture(autouse=True)
def _same_start():
    pyro.clear_param_store()  # stock guides of one name would share what earlier tests left there
    pyro.set_rng_seed(20180430)  # torch, numpy and random
    dtype = torch.get_default_dtype()
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a script's background job
        signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    torch.set_default_dtype(dtype)
    torch.distributions.Distribution.set_default_validate_args(True)  # torch.compile turns it off
