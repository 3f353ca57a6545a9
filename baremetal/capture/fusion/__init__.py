"""Fusion: launches that work on the same memory become one launch."""

from baremetal.capture.fusion.fuse import FUSIONS, Saving, chosen_fusions, fuse_recording

__all__ = ["FUSIONS", "Saving", "chosen_fusions", "fuse_recording"]
