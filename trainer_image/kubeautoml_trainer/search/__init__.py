"""The portfolio, samplers, pruners, and the loop ask -> trial -> tell."""
