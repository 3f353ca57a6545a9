"""`baremetal bench step`: one training step, ours beside the peers', in one interleaved run."""
