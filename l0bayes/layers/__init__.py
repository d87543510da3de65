"""Layers of other widths: attention with fewer heads, readers of some inputs, attributes that say widths."""
