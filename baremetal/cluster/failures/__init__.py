"""What breaks, how often, and how much of the time is left: failures, checkpoints, goodput."""
