"""Outputs and errors of networks with gates."""
