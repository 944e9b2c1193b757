"""Column transformers, fitted on training folds only."""
