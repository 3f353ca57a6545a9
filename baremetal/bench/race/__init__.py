"""`baremetal bench train`: the default training run, ours beside PyTorch's, to the end."""
