"""exp, tanh and erf that vectorise."""
