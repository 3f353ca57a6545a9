"""The soak: a pipeline under hundreds of faults, drawn by seed. See `soak.py`."""
