"""The trainer: data to bundle. See README.md for the map of the house."""
