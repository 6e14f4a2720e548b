"""Python interface of metarl, for programs of one's own; ``import metarl`` offers all of it, see docs/python.md."""
