"""Leaderboard, model card, plots, exported code."""
