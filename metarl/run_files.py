"""What the files of a run directory are called, for those who look at many; imports nothing heavy."""

CONFIG = "config.yaml"
METRICS = "metrics.jsonl"
SUMMARY = "summary.json"
ERROR = "error.txt"
LOCK = ".lock"
