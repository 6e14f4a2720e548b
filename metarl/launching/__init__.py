"""Launching and resuming of sweeps and searches."""
