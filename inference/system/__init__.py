"""The machine: several processes, interrupts, clocks."""
