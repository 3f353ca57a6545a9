"""What a plan's work costs on one GPU: operations, their times, exchanges, memory."""
