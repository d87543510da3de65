"""Gates chosen by evidence: what the data say for each of them, against what it costs to keep."""
