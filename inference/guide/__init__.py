"""The guide: hard concrete gates, and the families of all other latent variables."""
