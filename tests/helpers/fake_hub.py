"""A stand-in for the Hugging Face hub on the loopback interface: repositories in memory.

It answers what huggingface_hub asks to create a repository, to commit small files and large ones
(by git LFS), and to download them.
"""

import base64
import contextlib
import hashlib
import http.server
import json
import re
import threading
from collections.abc import Iterator

TOKEN = "of-tests"


class Hub(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repos: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.large: dict[str, bytes] = {}  # by sha256
        self.messages: list[str] = []  # of commits

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def sha(self, repo: str) -> str:
        """Of the commit: changes with the content."""
        files = sorted((n, hashlib.sha1(c).hexdigest()) for n, c in self.repos[repo].items())
        return hashlib.sha1(repr(files).encode()).hexdigest()


@contextlib.contextmanager
def running() -> Iterator[Hub]:
    with Hub() as hub:
        thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def _reply(self, code: int, content: object = None, headers: dict | None = None) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(code)
        headers = {"Content-Length": str(len(body))} | (headers or {})
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _missing(self) -> None:
        self._reply(404, {"error": "not here"}, {"X-Error-Code": "RepoNotFound"})

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def do_PUT(self) -> None:
        body = self._body()
        oid = self.path.rpartition("/")[2]
        if hashlib.sha256(body).hexdigest() != oid:
            self._reply(400, {"error": "another content"})
            return
        self.server.large[oid] = body
        self._reply(200, {})

    def do_POST(self) -> None:
        hub, body = self.server, self._body()
        path = self.path.partition("?")[0]
        if path == "/api/validate-yaml":
            self._reply(200, {"errors": [], "warnings": []})
            return
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._reply(401, {"error": "Invalid username or password."})
            return
        if path == "/api/repos/create":
            asked = json.loads(body)
            repo = f"{asked.get('organization')}/{asked['name']}"
            if repo in hub.repos:
                self._reply(409, {"error": "exists", "url": f"{hub.address}/{repo}"})
                return
            hub.repos[repo], hub.private[repo] = {}, asked.get("visibility") == "private"
            self._reply(200, {"url": f"{hub.address}/{repo}", "name": repo})
        elif found := re.fullmatch("/api/models/([^/]+/[^/]+)/preupload/main", path):
            modes = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                    "shouldIgnore": False,
                }
                for file in json.loads(body)["files"]
            ]
            self._reply(200, {"files": modes})
        elif path.endswith(".git/info/lfs/objects/batch"):
            objects = [
                {
                    "oid": each["oid"],
                    "size": each["size"],
                    "actions": {"upload": {"href": f"{hub.address}/lfs/{each['oid']}"}},
                }
                for each in json.loads(body)["objects"]
            ]
            self._reply(200, {"objects": objects, "transfer": "basic"})
        elif found := re.fullmatch("/api/models/([^/]+/[^/]+)/commit/main", path):
            if found[1] not in hub.repos:
                self._missing()
                return
            self._commit(found[1], [json.loads(line) for line in body.splitlines()])
        else:
            self._missing()

    def _commit(self, repo: str, lines: list[dict]) -> None:
        hub = self.server
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                hub.messages.append(value["summary"])
            elif line["key"] == "file":
                hub.repos[repo][value["path"]] = base64.b64decode(value["content"])
            else:
                assert line["key"] == "lfsFile", line
                hub.repos[repo][value["path"]] = hub.large[value["oid"]]
        sha = hub.sha(repo)
        self._reply(200, {"commitUrl": f"{hub.address}/{repo}/commit/{sha}", "commitOid": sha})

    def do_GET(self) -> None:
        hub, path = self.server, self.path.partition("?")[0]
        found = re.fullmatch("/api/models/([^/]+/[^/]+)(?:/(revision|tree)/.*)?", path)
        if found and found[1] in hub.repos:
            files, sha = hub.repos[found[1]], hub.sha(found[1])
            if found[2] == "tree":
                self._reply(
                    200,
                    [
                        {"type": "file", "path": name, "size": len(content), "oid": _oid(content)}
                        for name, content in files.items()
                    ],
                )
            else:
                siblings = [{"rfilename": name} for name in files]
                self._reply(200, {"id": found[1], "sha": sha, "siblings": siblings})
            return
        found = re.fullmatch("/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path)
        if found and found[2] in hub.repos.get(found[1], ()):
            content = hub.repos[found[1]][found[2]]
            tag = {"ETag": f'"{_oid(content)}"', "X-Repo-Commit": hub.sha(found[1])}
            self._reply(200, content, tag)
            return
        self._missing()

    do_HEAD = do_GET

    def log_message(self, *arguments: object) -> None:
        pass


def _oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
