"""Leaderboard, importance, plots, report page and exported code of a finished search."""
