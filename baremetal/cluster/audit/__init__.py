"""The 10x audit: how much faster than the best published runs could anything be, and by what."""
