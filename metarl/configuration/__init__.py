"""Configurations: composed by Hydra, checked against constructors, built."""
