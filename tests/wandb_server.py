"""A stand-in of W&B's HTTP API on this machine: it takes runs, their rows and their files, and can fail on demand."""

import json
import re
import threading
import time
from collections import defaultdict
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "0" * 40
STREAM = re.compile(r"/files/([^/]+)/([^/]+)/([^/]+)/file_stream")


class WandbServer:
    """Counts and keeps what clients send.

    Attributes:
        runs: the variables of the last request that made or changed each run, by its id.
        history, summary, files: rows of each run in the order in which they came, its last summary, names of uploads.
        fault: what happens to requests: None, a status code, ``"hang"`` or ``"drop"``.
    """

    def __init__(self) -> None:
        self.runs: dict[str, dict[str, Any]] = {}
        self.history: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self.summary: dict[str, dict[str, Any]] = {}
        self.exit_codes: dict[str, int] = {}
        self.files: dict[str, set[str]] = defaultdict(set)
        self.requests: list[str] = []
        self.fault: int | str | None = None
        self.closing = threading.Event()

    def __enter__(self) -> "WandbServer":
        handler = type("Bound", (Handler,), {"owner": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self.server.shutdown()
        self.server.server_close()

    def rows(self, run: str) -> list[dict[str, Any]]:
        """Rows of a run that came, each step once, in order."""
        return [row for _, row in sorted({row["_step"]: row for row in self.history[run]}.items())]

    def stream(self, run: str, content: dict[str, Any]) -> dict[str, Any]:
        """Rows and the like of a run, each file from some line on."""
        for name, part in content.get("files", {}).items():
            lines = [json.loads(line) for line in part["content"]] if name.endswith((".jsonl", ".json")) else []
            if name == "wandb-history.jsonl":
                self.history[run] += lines
            elif name == "wandb-summary.json":
                self.summary[run] = lines[-1]
        if content.get("complete"):
            self.exit_codes[run] = content["exitcode"]
        return {"exitcode": None, "limits": {}}

    def graphql(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        """The few questions that W&B's client asks for a run."""
        if "mutation UpsertBucket" in query:
            return {"upsertBucket": self.upsert(variables)}
        if "CreateRunFiles" in query:
            self.files[variables["run"]] |= set(variables["files"])
            files = [{"name": name, "uploadUrl": f"{self.url}/upload/{name}"} for name in variables["files"]]
            return {"createRunFiles": {"runID": variables["run"], "uploadHeaders": [], "files": files}}
        if "RunResumeStatus" in query or "RunStatus" in query:
            return {"model": {"id": "p", "name": variables.get("project"), "entity": {"id": "e", "name": "someone"},
                              "bucket": self.status(variables["name"])}}  # fmt: skip
        entity = {"id": "e", "name": "someone", "username": "someone", "flags": "{}", "teams": {"edges": []}}
        return {"viewer": entity | {"entity": "someone"}, "serverInfo": {"cliVersionInfo": {}, "features": []}}

    def upsert(self, variables: dict[str, Any]) -> dict[str, Any]:
        """Make a run, or change it."""
        name = variables["name"]
        inserted = name not in self.runs
        given = {key: value for key, value in variables.items() if value is not None}
        self.runs[name] = self.runs.get(name, {}) | given
        project = {"id": "p", "name": variables["project"], "entity": {"id": "e", "name": "someone"}}
        bucket = {
            "id": f"bucket-{name}", "name": name, "displayName": variables.get("displayName") or name,
            "description": "", "config": variables.get("config") or "{}", "sweepName": None, "project": project,
            "historyLineCount": len(self.history[name]),
        }  # fmt: skip
        return {"bucket": bucket, "inserted": inserted}

    def status(self, name: str) -> dict[str, Any] | None:
        """Answer to a client that resumes a run; None if there is no such run."""
        if name not in self.runs:
            return None
        rows = self.history[name]
        return {
            "id": f"bucket-{name}", "name": name, "displayName": self.runs[name].get("displayName"),
            "summaryMetrics": json.dumps(self.summary.get(name, {})),
            "historyLineCount": len(rows), "eventsLineCount": 0, "logLineCount": 0,
            "historyTail": json.dumps([json.dumps(rows[-1])] if rows else []), "eventsTail": "[]",
            "config": self.runs[name].get("config") or "{}", "tags": [], "sweepName": None,
            "wandbConfig": '{"t": 1}',
        }  # fmt: skip


class Handler(BaseHTTPRequestHandler):
    """One request."""

    owner: WandbServer
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self._serve()

    do_GET = do_PUT = do_POST

    def _serve(self) -> None:
        server, body = self.owner, self.rfile.read(int(self.headers.get("Content-Length", 0)))
        server.requests.append(f"{self.command} {self.path}")
        if server.fault == "hang":
            server.closing.wait(60)
        if server.fault in ("hang", "drop"):
            self.close_connection = True
            return
        if server.fault is not None:
            self._answer({"errors": [{"message": "as it was asked to"}]}, int(server.fault))
            return
        self._answer(self._content(body))

    def _content(self, body: bytes) -> dict[str, Any]:
        if self.path != "/graphql" and not STREAM.match(self.path):  # files, and telemetry of W&B's own
            return {}
        content = json.loads(body) if body else {}
        if found := STREAM.match(self.path):
            return self.owner.stream(found[3], content)
        return {"data": self.owner.graphql(content.get("query", ""), content.get("variables") or {})}

    def _answer(self, content: dict[str, Any], status: int = 200) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def handle(self) -> None:
        with suppress(ConnectionError):  # whoever hung up
            super().handle()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def wait_for(condition: Any, seconds: float = 20) -> bool:
    """Whether a condition came true in that time."""
    end = time.monotonic() + seconds
    while not (found := condition()) and time.monotonic() < end:
        time.sleep(0.02)
    return bool(found)
