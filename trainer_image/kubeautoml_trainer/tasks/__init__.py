"""Plug-ins: one file a task."""
