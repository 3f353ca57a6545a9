"""How fast a GB300 multiplies matrices, by the format of their numbers.

Published dense rates of one GPU, not measured here. NVIDIA's dgxc-benchmarking README at commit
841f5466 (read in November 2026) divides by 2,450, 4,900 and 14,700 TFLOP/s when it states a share
of the peak for BF16, FP8 and NVFP4. Products of float32 operands are taken to run in TF32, which
rounds these to 11 significant bits on their way into the tensor core: 1,250 TFLOP/s dense, by
Verda's page on the GB300 (read in November 2026).
"""

from baremetal.kernels.number_formats import FORMATS

BY_BITS = {32: 1250e12, 16: 2450e12, 8: 4900e12, 4: 14700e12}  # FLOP/s
KINDS = {32: "TF32", 16: "16 bits", 8: "8 bits", 4: "4 bits"}


def bits_of(*formats: str) -> int:
    """The bits that decide a product's rate: those of its widest operand ("float32" or narrow)."""
    return max(FORMATS[name].bits if name in FORMATS else 32 for name in formats)
