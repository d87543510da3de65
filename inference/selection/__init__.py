"""Gates chosen by evidence: what the data say for each, against what it costs; and the network that is left."""
