"""Scores on the classes that were trained on: linear probe, nearest neighbours, few labels, reliability."""
