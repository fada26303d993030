"""Counted parameters: every trained weight times the number of distinct times it contributes to one forward pass."""
