"""Applying kept channels to a model: slicing, cutting, and the skeleton that builds candidates quickly."""
