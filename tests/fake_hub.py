"""A model hub on loopback: what huggingface_hub asks of one when a run is pushed and used. ``python tests/fake_hub.py``."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

WRITER, READER = "hf_writer", "hf_reader"  # what a token may do


@dataclass
class Repository:
    private: bool
    #: Files of each commit, and the commit of each branch.
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def commit(self, branch: str, files: dict[str, bytes]) -> str:
        sha = hashlib.sha1(f"{branch} {len(self.commits)}".encode()).hexdigest()
        self.commits[sha] = files
        self.branches[branch] = sha
        return sha

    def at(self, revision: str) -> str | None:
        return self.branches.get(revision, revision if revision in self.commits else None)


@dataclass
class FakeHub:
    repositories: dict[str, Repository] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    #: Every request, as "METHOD path".
    asked: list[str] = field(default_factory=list)
    #: Addresses (parts of them) that are answered with a status of one's own.
    broken: dict[str, int] = field(default_factory=dict)
    url: str = ""

    def files(self, repository: str, branch: str = "main") -> dict[str, bytes]:
        found = self.repositories[repository]
        return found.commits[found.branches[branch]]


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def _answer(self, status: int, value: Any = None, headers: dict[str, str] | None = None, **raw: bytes) -> None:
        body = raw.get("body", json.dumps({} if value is None else value).encode())
        self.send_response(status)
        for name, text in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _error(self, status: int, code: str = "", message: str = "no") -> None:
        self._answer(status, {"error": message}, {"X-Error-Code": code, "X-Error-Message": message})

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().strip(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _handle(self) -> None:
        body = self._body()
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append(f"{self.command} {path}")
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        for part, status in self.hub.broken.items():
            if part in path:
                return self._error(status)
        if token and token not in (WRITER, READER):
            return self._error(401, message="Invalid credentials in Authorization header")
        if path == "/api/validate-yaml":
            return self._answer(200, {"warnings": [], "errors": []})
        if path.startswith("/lfs/"):
            assert hashlib.sha256(body).hexdigest() == path.removeprefix("/lfs/")
            self.hub.blobs[path.removeprefix("/lfs/")] = body
            return self._answer(200)
        if self.command == "POST" and token != WRITER:
            return self._error(403 if token else 401, message="you may not write")
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        for pattern, method in (
            (r"/api/models/([^/]+/[^/]+)/(preupload|commit|branch|tree|revision)/(.+)", self._api),
            (r"/api/models/([^/]+/[^/]+)()()", self._api),
            (r"/([^/]+/[^/]+)/(resolve)/(?:([^/]+)/)(.+)", self._resolve),
            (r"/([^/]+/[^/]+)\.git/(info/lfs/objects/batch)()", self._api),
        ):
            found = re.fullmatch(pattern, path)
            if found:
                name, what, *rest = found.groups()
                repository = self.hub.repositories.get(name)
                if repository is None or (repository.private and not token):
                    return self._error(404 if token else 401, "RepoNotFound", "Repository not found")
                return method(repository, name, what, rest, body)
        return self._error(404)

    do_GET = do_HEAD = do_POST = do_PUT = _handle  # noqa: N815 - the names that http.server calls

    def _create(self, asked: dict[str, Any]) -> None:
        name = f"{asked['organization']}/{asked['name']}"
        if name in self.hub.repositories:
            return self._answer(409, {"error": "exists", "url": f"{self.hub.url}/{name}"})
        private = asked.get("private") or asked.get("visibility") == "private"
        self.hub.repositories[name] = Repository(bool(private))
        self.hub.repositories[name].commit("main", {".gitattributes": b"*.safetensors filter=lfs\n"})
        return self._answer(200, {"url": f"{self.hub.url}/{name}"})

    def _api(self, repository: Repository, name: str, what: str, rest: list[str], body: bytes) -> None:
        if what.startswith("info"):
            uploads = [
                {**o, "actions": {"upload": {"href": f"{self.hub.url}/lfs/{o['oid']}"}}}
                for o in json.loads(body)["objects"]
            ]
            return self._answer(200, {"transfer": "basic", "objects": uploads})
        revision = rest[0] or "main"
        if what == "branch":
            if revision in repository.branches:
                return self._error(409, message="Reference already exists")
            repository.commit(revision, dict(repository.commits[repository.branches["main"]]))
            return self._answer(200)
        sha = repository.at(revision)
        if sha is None:
            return self._error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        files = repository.commits[sha]
        if what == "preupload":
            modes = [
                {"path": f["path"], "shouldIgnore": False,
                 "uploadMode": "lfs" if f["path"].endswith(".safetensors") else "regular"}
                for f in json.loads(body)["files"]
            ]  # fmt: skip
            return self._answer(200, {"files": modes})
        if what == "commit":
            return self._commit(repository, name, revision, files, body)
        if what == "tree":
            entries = [{"type": "file", "path": path, **self._entry(path, file)} for path, file in files.items()]
            return self._answer(200, entries)
        about = {"id": name, "modelId": name, "sha": sha, "private": repository.private, "tags": [], "downloads": 0,
                 "likes": 0, "siblings": [{"rfilename": path} for path in files]}  # fmt: skip
        return self._answer(200, about)

    def _commit(self, repository: Repository, name: str, branch: str, files: dict[str, bytes], body: bytes) -> None:
        files = dict(files)
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.blobs[value["oid"]]
        sha = repository.commit(branch, files)
        self._answer(200, {"commitUrl": f"{self.hub.url}/{name}/commit/{sha}", "commitOid": sha})

    @staticmethod
    def _entry(path: str, file: bytes) -> dict[str, Any]:
        entry: dict[str, Any] = {"size": len(file), "oid": hashlib.sha1(file).hexdigest()}
        if path.endswith(".safetensors"):
            entry["lfs"] = {"oid": hashlib.sha256(file).hexdigest(), "size": len(file), "pointerSize": 130}
        return entry

    def _resolve(self, repository: Repository, name: str, what: str, rest: list[str], body: bytes) -> None:
        revision, path = rest
        sha = repository.at(revision)
        if sha is None:
            return self._error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        file = repository.commits[sha].get(path)
        if file is None:
            return self._answer(404, {}, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": sha})
        entry = self._entry(path, file)
        etag = entry.get("lfs", entry)["oid"]
        return self._answer(200, headers={"ETag": f'"{etag}"', "X-Repo-Commit": sha}, body=file)


@contextmanager
def running(port: int = 0) -> Iterator[FakeHub]:
    """Let a hub answer while the block runs."""
    hub = FakeHub()
    server = ThreadingHTTPServer(("127.0.0.1", port), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


if __name__ == "__main__":
    with running(int(sys.argv[1]) if len(sys.argv) > 1 else 8800) as hub:
        print(f"HF_ENDPOINT={hub.url} HF_TOKEN={WRITER} HF_HUB_DISABLE_XET=1", flush=True)
        threading.Event().wait()
