"""The ELBO whose KLs are all closed, and the loss of one training step."""
