"""Checks of environments, models and algorithms against their contracts."""
