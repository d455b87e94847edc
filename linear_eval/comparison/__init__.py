"""Runs side by side, from what they wrote already."""
