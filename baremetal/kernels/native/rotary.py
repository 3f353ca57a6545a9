"""Rotary embedding, compiled: copy a token's heads, then turn them where they lie.

Copying first costs little (the head stays in first-level cache) and makes the in-place case
(`out` is `x`: nothing to copy) as fast as the other. Were each number read from `x` and written to
`out` in one loop, the compiler would have to fear that they overlap, and with `out` = `x` they do.
"""

from baremetal.kernels.native.abi import FLOATING, Launch, body, integer, offset, pointer


@body
def rotary_body(lo, hi, args):
    """Tokens lo..hi, counted through B and T, of out = x with its first heads turned.

    Words: 0 x, 1 cos, 2 sin, 3 out, 4 T, 5 N, 6 D, 7 heads to turn, 8 inverse?,
    9-11 strides of x in B T N, 12-14 of out, in elements.
    """
    T, N, D = integer(args, 4), integer(args, 5), integer(args, 6)
    rotated, half = integer(args, 7), integer(args, 6) // 2
    inverse, in_place = integer(args, 8) != 0, integer(args, 0) == integer(args, 3)
    for token in range(lo, hi):
        b, t = token // T, token % T
        x = offset(pointer(args, 0), b * integer(args, 9) + t * integer(args, 10))
        out = offset(pointer(args, 3), b * integer(args, 12) + t * integer(args, 13))
        cos, sin = offset(pointer(args, 1), t * half), offset(pointer(args, 2), t * half)
        if not in_place:
            for n in range(N):
                source, head = offset(x, n * integer(args, 11)), offset(out, n * integer(args, 14))
                for j in range(D):
                    head[j] = source[j]
        for n in range(rotated):
            first = offset(out, n * integer(args, 14))
            second = offset(first, half)
            if inverse:
                for j in range(half):
                    p, q = first[j], second[j]
                    first[j] = p * cos[j] + q * sin[j]
                    second[j] = q * cos[j] - p * sin[j]
            else:
                for j in range(half):
                    p, q = first[j], second[j]
                    first[j] = p * cos[j] - q * sin[j]
                    second[j] = q * cos[j] + p * sin[j]


def rotary(x, cos, sin, out, *, rotated, inverse):
    """Pack the rotation; None unless D is contiguous in x and out, and cos and sin are whole."""
    dtype = x.dtype
    if dtype not in FLOATING or not (dtype == out.dtype == cos.dtype == sin.dtype):
        return None
    if not (cos.flags.c_contiguous and sin.flags.c_contiguous):
        return None
    size = x.itemsize
    x_b, x_t, x_n, x_d = x.strides
    out_b, out_t, out_n, out_d = out.strides
    if x_d != size or out_d != size:
        return None
    B, T, N, D = x.shape
    words = (
        x, cos, sin, out, T, N, D, rotated, inverse,
        x_b // size, x_t // size, x_n // size, out_b // size, out_t // size, out_n // size,
    )  # fmt: skip
    return [Launch(rotary_body, dtype, words, B * T if x.size else 0, N * D)]
