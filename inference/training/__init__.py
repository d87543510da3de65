"""A run of training, from its options to the loop."""
