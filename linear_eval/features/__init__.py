"""A frozen encoder's features of a set: taken once, kept in memory or on disk, written as tables."""
