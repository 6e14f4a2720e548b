"""A program that forks processes for tests: they begin with what ``run.py`` imports, which costs seconds, in place.

``processes.py`` starts it and asks it. A process forked here is one like any other: with its own identifier, signals,
directory, environment and streams, and it ends as its script ends.
"""

import gc
import importlib
import json
import os
import runpy
import signal
import socket
import sys
import tempfile
from pathlib import Path


def serve(asked: socket.socket) -> dict | None:
    """Answer until nobody asks any more, or, in a process that was forked, return what it is to do."""
    while True:
        text, descriptors, _, _ = socket.recv_fds(asked, 2**20, 2)
        if not text:
            return None
        order = json.loads(text)
        if "status" in order:
            pid, status = os.waitpid(order["status"], os.WNOHANG)
            asked.send(json.dumps(os.waitstatus_to_exitcode(status) if pid else None).encode())
            continue
        if pid := os.fork():
            for descriptor in descriptors:
                os.close(descriptor)
            asked.send(json.dumps(pid).encode())
            continue
        asked.close()
        return order | {"descriptors": descriptors}


def become(order: dict) -> None:
    """Run what was ordered as ``python`` would, for a limited time: nothing outlives a test that has failed."""
    signal.alarm(order["limit"])
    for number, descriptor in enumerate(order["descriptors"], 1):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.chdir(order["directory"])
    os.environ.clear()
    os.environ.update(order["environment"])
    sys.path[1:1] = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    tempfile.tempdir = None  # which may be another in this environment
    if not order["report"]:
        sys.modules["metarl.analysis.report"].write_page = lambda runs, path: path.write_text("<html>no figures</html>")
    first, *rest = order["arguments"]
    if first == "-m":
        sys.argv, sys.path[0] = rest, os.getcwd()
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv, sys.path[0] = [first, *rest], str(Path(first).resolve().parent)
        runpy.run_path(first, run_name="__main__")


IMPORTED = ("torch._dynamo", "metarl.experiment", "metarl.analysis.report", "metarl.analysis.video", "metarl.cli")


def prepare() -> None:
    """Import what trainings, reports and commands import."""
    for name in IMPORTED:
        importlib.import_module(name)
    gc.freeze()  # so that collections in forked processes do not touch, and thereby copy, what was imported


if __name__ == "__main__":
    prepare()
    if found := serve(socket.socket(fileno=int(sys.argv[1]))):
        become(found)
