"""Backbone, projection head, and the two as one module."""
