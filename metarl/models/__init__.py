"""Sequence models and the policies around them."""
