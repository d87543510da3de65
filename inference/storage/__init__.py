"""What is written to disk: saved networks and guides, checkpoints, histories."""
