"""Data sets, batches and their order."""
