"""Distances between embeddings: of rows to all rows of another set, and row by row."""

from simclr.distances.between import DistanceName, check_distance, paired_distance, pairwise_distance

__all__ = ["DistanceName", "check_distance", "paired_distance", "pairwise_distance"]
