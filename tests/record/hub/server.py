"""A server on loopback that speaks the parts of the Hub's API that ckptlab uses."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import threading
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

_API = re.compile(r"/api/(models|datasets)/([^/]+/[^/]+)(?:/([a-z]+)(?:/([^/]+)(?:/(.*))?)?)?")
_FILE = re.compile(r"/(?:(datasets)/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)")


@dataclass
class Hub:
    """Repositories by kind and name: files by revision.

    `drop` cuts the connection after so many bytes of a file, by (revision, file), once; `stall`
    never answers for one, and sets `stalled`.
    """

    repositories: dict[tuple[str, str], dict[str, dict[str, bytes]]] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    drop: dict[tuple[str, str], int] = field(default_factory=dict)
    stall: tuple[str, str] | None = None
    stalled: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)
    sent: Counter[tuple[str, str]] = field(default_factory=Counter)
    endpoint: str = ""

    def commit_of(self, kind, name, revision):
        """A revision's commit: a hash of its content."""
        files = self.repositories[kind, name][revision]
        text = repr(
            (name, revision, sorted((p, hashlib.sha1(c).hexdigest()) for p, c in files.items()))
        )
        return hashlib.sha1(text.encode()).hexdigest()

    def revision_of(self, kind, name, named):
        """The revision that a name or a commit stands for; None if there is none."""
        for revision in self.repositories[kind, name]:
            if named in (revision, self.commit_of(kind, name, revision)):
                return revision
        return None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_):
        pass

    def answer(self, code, document=None, headers=(), body=None):
        body = json.dumps(document).encode() if body is None else body
        self.send_response(code)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, code, said, text):
        self.answer(code, {"error": text}, [("X-Error-Code", said), ("X-Error-Message", text)])

    def repository(self, kind, name, revision=None):
        """Return whether it may be read; else the refusal was sent."""
        kind = kind or "models"
        if (kind, name) not in self.hub.repositories:
            self.refuse(404, "RepoNotFound", "Repository not found")
        elif name in self.hub.gated:
            self.refuse(403, "GatedRepo", "Access to it is restricted")
        elif revision is not None and self.hub.revision_of(kind, name, revision) is None:
            self.refuse(404, "RevisionNotFound", "Revision not found")
        else:
            return True
        return False

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = unquote(urlsplit(self.path).path)
        if found := _FILE.fullmatch(path):
            self.file(*found.groups())
        elif found := _API.fullmatch(path):
            self.api(*found.groups())
        else:
            self.answer(404, {})

    def api(self, kind, name, what, revision, below):
        hub = self.hub
        if not self.repository(kind, name, revision):
            return
        held = hub.repositories[kind, name]
        if what == "refs":
            branches = [
                {"name": r, "ref": f"refs/heads/{r}", "targetCommit": hub.commit_of(kind, name, r)}
                for r in held
            ]
            self.answer(200, {"branches": branches, "tags": [], "converts": []})
            return
        at = hub.revision_of(kind, name, revision or "main")
        files = held[at]
        if what == "tree":
            prefix = f"{below}/" if below else ""
            deep = "recursive=True" in self.path or "recursive=true" in self.path
            entries, folders = [], set()
            for file, content in sorted(files.items()):
                rest = file.removeprefix(prefix)
                if not file.startswith(prefix):
                    continue
                if "/" in rest and not deep:
                    folders.add(prefix + rest.partition("/")[0])
                    continue
                oid = hashlib.sha1(content).hexdigest()
                entries.append({"type": "file", "path": file, "size": len(content), "oid": oid})
            entries += [{"type": "directory", "path": p, "oid": "0" * 40} for p in sorted(folders)]
            self.answer(200, entries)
            return
        info = {"id": name, "sha": hub.commit_of(kind, name, at), "private": False, "tags": []}
        siblings = [{"rfilename": file} for file in files]
        self.answer(200, {**info, "downloads": 0, "likes": 0, "siblings": siblings})

    def file(self, kind, name, revision, file):
        hub, kind = self.hub, kind or "models"
        if not self.repository(kind, name, revision):
            return
        at = hub.revision_of(kind, name, revision)
        content = hub.repositories[kind, name][at].get(file)
        if content is None:
            self.refuse(404, "EntryNotFound", "Entry not found")
            return
        headers = [
            ("X-Repo-Commit", hub.commit_of(kind, name, at)),
            ("ETag", f'"{hashlib.sha1(content).hexdigest()}"'),
            ("Accept-Ranges", "bytes"),
        ]
        if self.command == "HEAD":
            self.answer(200, headers=headers, body=content)
            return
        if hub.stall == (at, file):
            hub.stalled.set()
            hub.released.wait(60)
        start, found = 0, re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        part = content
        if found:
            start = int(found[1])
            part = content[start : int(found[2]) + 1 if found[2] else None]
            last = start + len(part) - 1
            headers.append(("Content-Range", f"bytes {start}-{last}/{len(content)}"))
        hub.sent[at, file] += len(part)
        cut = hub.drop.pop((at, file), None)
        if cut is None:
            self.answer(206 if found else 200, headers=headers, body=part)
            return
        self.send_response(200)
        for header, value in headers:
            self.send_header(header, value)
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        self.wfile.write(part[:cut])
        self.wfile.flush()
        hub.sent[at, file] -= len(part) - cut
        self.close_connection = True
        self.connection.shutdown(2)

    def do_POST(self):
        path = unquote(urlsplit(self.path).path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        hub = self.hub
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked.get('organization') or 'me'}/{asked['name']}"
            kind = f"{asked.get('type') or 'model'}s"
            hub.repositories.setdefault((kind, name), {"main": {}})
            self.answer(200, {"url": f"{hub.endpoint}/{name}", "id": name, "name": name})
            return
        found = _API.fullmatch(path)
        if not found or not self.repository(found[1], found[2]):
            return
        kind, name, what, revision, _ = found.groups()
        held = hub.repositories[kind, name]
        if what == "branch":
            held[revision] = dict(held["main"])
            self.answer(200, {})
        elif what == "preupload":
            modes = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
                for f in json.loads(body)["files"]
            ]
            self.answer(200, {"files": modes})
        elif what == "commit":
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    value = entry["value"]
                    held[revision][value["path"]] = base64.b64decode(value["content"])
            url = f"{hub.endpoint}/{name}/commit/{hub.commit_of(kind, name, revision)}"
            oid = hub.commit_of(kind, name, revision)
            self.answer(200, {"commitUrl": url, "commitOid": oid, "success": True})
        else:
            self.answer(404, {})


@contextlib.contextmanager
def serving():
    """Serve a hub on loopback."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.released.set()
        server.shutdown()
        server.server_close()
        thread.join()
