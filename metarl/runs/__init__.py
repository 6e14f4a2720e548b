"""Run directories and sweeps on disk: one reader and one writer of every file."""
