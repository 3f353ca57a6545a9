"""What a GPU keeps: weights, gradients, optimiser states, activations.

A thin first form; see the tests for the published formulas.
"""
