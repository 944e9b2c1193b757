"""Greedy selection over stored out-of-fold predictions."""
