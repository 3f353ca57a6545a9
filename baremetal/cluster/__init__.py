"""The cluster model: what a run on thousands of GPUs costs, keeps, sends, and where it breaks."""
