"""What parameters and multiply-accumulates under gates cost, in expectation, and the KL of the slabs on them."""
