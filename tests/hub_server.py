# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""
A stand-in of the Hub's HTTP interface on the loopback address: enough of it to make a repository, upload to it and load from it, and to
stream a data set.
"""

import base64
import json
import re
import threading
from contextlib import contextmanager
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs

COMMIT = "0123456789" * 4


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def answer(self, content: bytes | dict | list, status: int = 200, **headers: str):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_POST(self):
        hub, body = self.server.hub, self.rfile.read(int(self.headers.get("Content-Length", 0)))
        hub["authorizations"].append(self.headers.get("Authorization"))
        path = self.path.split("?")[0]
        if path == "/api/repos/create":
            return self.answer({"url": f"http://{self.headers['Host']}/you/{json.loads(body)['name']}"})
        if path == "/api/validate-yaml":
            hub["cards"].append(json.loads(body)["content"])
            return self.answer({"errors": [], "warnings": []})
        if "/preupload/" in path:
            files = [file["path"] for file in json.loads(body)["files"]]
            return self.answer(
                {"files": [{"path": file, "uploadMode": "regular", "shouldIgnore": False} for file in files]}
            )
        if "/commit/" in path:
            for line in map(json.loads, body.decode().splitlines()):
                if line["key"] == "file":
                    hub["files"][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            repository = path.removeprefix("/api/models/").split("/commit/")[0]
            url = f"http://{self.headers['Host']}/{repository}/commit/{COMMIT}"
            return self.answer({"commitUrl": url, "commitOid": COMMIT, "success": True})
        if "/paths-info/" in path:
            wanted = parse_qs(body.decode())["paths"]
            return self.answer([entry for entry in self.data_files() if entry["path"] in wanted])
        return self.answer({"error": f"no {path}"}, 404)

    def data_files(self) -> list[dict]:
        return [
            {"type": "file", "path": name, "size": len(content), "oid": sha1(content).hexdigest()}
            for name, content in self.server.hub["data"].items()
        ]

    def answer_file(self, content: bytes | None):
        """A file, or the bytes of it that are asked for."""
        if content is None:
            return self.answer(b"", 404, X_Error_Code="EntryNotFound", X_Repo_Commit=COMMIT)
        headers = {"ETag": f'"{sha1(content).hexdigest()}"', "X_Repo_Commit": COMMIT, "Accept_Ranges": "bytes"}
        if match := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            first, last = int(match[1]), int(match[2] or len(content) - 1)
            headers["Content_Range"] = f"bytes {first}-{min(last, len(content) - 1)}/{len(content)}"
            return self.answer(content[first : last + 1], 206, **headers)
        return self.answer(content, **headers)

    def do_GET(self):
        files, path = self.server.hub["files"], self.path.split("?")[0]
        if path == "/api/whoami-v2":
            return self.answer({"type": "user", "name": "you"})
        if match := re.fullmatch(r"(/datasets)?/[^/]+/[^/]+/resolve/[^/]+/(.+)", path):
            return self.answer_file((self.server.hub["data"] if match[1] else files).get(match[2]))
        if path.startswith("/api/datasets/"):
            if path.endswith(f"/tree/{COMMIT}"):
                return self.answer(self.data_files())
            if "/tree/" in path:
                return self.answer({"error": "no such folder"}, 404, X_Error_Code="EntryNotFound")
            siblings = [{"rfilename": name} for name in self.server.hub["data"]]
            return self.answer({"id": "you/corpus", "sha": COMMIT, "siblings": siblings, "tags": []})
        if "/tree/" in path:
            return self.answer({"error": "no such folder"}, 404, X_Error_Code="EntryNotFound")
        if path.startswith("/api/models/"):
            siblings = [{"rfilename": name} for name in files]
            return self.answer({"id": "you/toy", "modelId": "you/toy", "sha": COMMIT, "siblings": siblings, "tags": []})
        return self.answer({"error": f"no {path}"}, 404)

    do_HEAD = do_GET


@contextmanager
def hub():
    """The address of a Hub that runs inside, and what it has: `files` of its model and `data` of its data set by path, `cards` and `authorizations`."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.hub = {"files": {}, "data": {}, "cards": [], "authorizations": []}
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", server.hub
    finally:
        server.shutdown()
        server.server_close()
