"""How large the network ends: targets, rounding to them, and networks that shrink while they train."""
