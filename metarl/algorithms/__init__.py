"""Learning algorithms, one concept a file."""
