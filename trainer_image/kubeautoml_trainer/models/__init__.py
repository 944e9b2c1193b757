"""Plug-ins: one file a model family."""
