"""Explanations: what a computation did, forward and backward, told step by step."""
