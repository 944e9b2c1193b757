"""The steps of `kubeautoml finalize`, by subject; the order is in `finalize.py`."""
