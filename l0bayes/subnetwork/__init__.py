"""The subnetwork that a draw of the gates selects: chosen, run, written out, and checked against the masked one."""
