"""HTTP over a bundle; imports nothing of search or training."""
