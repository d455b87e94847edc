"""Scores on classes never trained on: retrieval, verification, identification, and the threshold that is kept."""
