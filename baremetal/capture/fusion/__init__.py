"""Fusion: launches that work on the same memory become one launch."""

from baremetal.capture.fusion.compare import FusionRow, compare_fusions, fusion_table
from baremetal.capture.fusion.fuse import FUSIONS, chosen_fusions, fuse_recording

__all__ = [
    "FUSIONS",
    "FusionRow",
    "chosen_fusions",
    "compare_fusions",
    "fuse_recording",
    "fusion_table",
]
