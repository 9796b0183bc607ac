"""An in-memory Google Cloud Storage server (JSON API) on a local port.

It implements what gcsfs, TensorStore and google-cloud-storage need to write, list, read and delete
checkpoints and small files. As in the real service there are no folders, only objects whose names
contain "/".
"""

import base64
import contextlib
import email
import http.server
import json
import sys
import threading
import urllib.parse
from collections.abc import Iterator

import google_crc32c


class Bucket:
    """The objects of all buckets; names start with "<bucket>/"."""

    def __init__(self):
        self.objects: dict[str, tuple[int, bytes]] = {}  # name: (generation, contents)
        self.uploads: dict[str, tuple[str, bytearray]] = {}
        self.lock = threading.Lock()
        self.generation = 0

    def put(self, name: str, data: bytes, only_generation: str | None) -> dict | None:
        """Stores an object; returns None if its generation is not `only_generation`."""
        with self.lock:
            current = self.objects.get(name, (0, b""))[0]
            if only_generation is not None and int(only_generation) != current:
                return None
            self.generation += 1
            self.objects[name] = (self.generation, bytes(data))
        return self.describe(name)

    def describe(self, name: str) -> dict:
        generation, data = self.objects[name]
        bucket, _, inside = name.partition("/")
        return {
            "kind": "storage#object",
            "bucket": bucket,
            "name": inside,
            "id": f"{name}/{generation}",
            "generation": str(generation),
            "metageneration": "1",
            "size": str(len(data)),
            "crc32c": base64.b64encode(google_crc32c.Checksum(data).digest()).decode(),
            "contentType": "application/octet-stream",
            "timeCreated": "2020-01-01T00:00:00.000Z",
            "updated": "2020-01-01T00:00:00.000Z",
        }

    def listed(self, bucket: str, query: dict[str, str]) -> dict:
        start, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        items, prefixes = [], []
        for name in sorted(self.objects):
            owner, _, inside = name.partition("/")
            if owner != bucket or not inside.startswith(start):
                continue
            rest = inside[len(start) :]
            if delimiter and delimiter in rest:
                prefixes.append(start + rest.partition(delimiter)[0] + delimiter)
            elif query.get("startOffset", "") <= inside < query.get("endOffset", "\U0010ffff"):
                items.append(self.describe(name))
        return {"items": items, "prefixes": sorted(set(prefixes))}


class Handler(http.server.BaseHTTPRequestHandler):
    """Handles requests to /[upload|download/]storage/v1/b/<bucket>/o/<object>."""

    protocol_version = "HTTP/1.1"
    store: Bucket

    def log_message(self, *arguments) -> None:
        pass

    def handle_any(self) -> None:
        """Answers a request with any method."""
        url = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(url.query, keep_blank_values=True))
        body = self._body()
        parts = [urllib.parse.unquote(p) for p in url.path.strip("/").split("/")]
        upload = parts[0] == "upload"
        parts = parts[parts.index("b") + 1 :] if "b" in parts else []
        if not parts:
            return self._answer(404, {"error": {"code": 404, "message": self.path}})
        bucket, name = parts[0], "/".join(parts[2:])
        if upload:
            return self._upload(bucket, query, body)
        if len(parts) == 1:
            return self._answer(200, {"kind": "storage#bucket", "id": bucket, "name": bucket})
        if not name:
            return self._answer(200, self.store.listed(bucket, query))
        if self.command == "POST":
            return self._copy(bucket, parts[2:])
        return self._object(f"{bucket}/{name}", query)

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = handle_any

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        data = b""
        while size := int(self.rfile.readline(), 16):
            data += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return data

    def _upload(self, bucket: str, query: dict[str, str], body: bytes) -> None:
        kind, only = query.get("uploadType"), query.get("ifGenerationMatch")
        name = query.get("name", "")
        if kind == "multipart":
            head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
            about, data = email.message_from_bytes(head + body).get_payload()
            name = json.loads(about.get_payload(decode=True))["name"]
            body = data.get_payload(decode=True)
        elif kind == "resumable" and "upload_id" not in query:
            number = str(len(self.store.uploads))
            name = json.loads(body)["name"] if body else name
            self.store.uploads[number] = (f"{bucket}/{name}", bytearray())
            where = f"http://{self.headers['Host']}{self.path}&upload_id={number}"
            return self._answer(200, {}, Location=where)
        elif kind == "resumable":
            full, data = self.store.uploads[query["upload_id"]]
            data += body
            if self.headers.get("Content-Range", "").endswith("/*"):
                return self._answer(308, {}, Range=f"bytes=0-{len(data) - 1}")
            bucket, _, name = full.partition("/")
            body = bytes(data)
        written = self.store.put(f"{bucket}/{name}", body, only)
        return self._answer(200 if written else 412, written or {})

    def _copy(self, bucket: str, parts: list[str]) -> None:
        """o/<source>/rewriteTo/b/<bucket>/o/<target>, also copyTo; o/<source>/moveTo/o/<target>."""
        at = next(i for i, p in enumerate(parts) if p in ("rewriteTo", "copyTo", "moveTo"))
        source, move = f"{bucket}/{'/'.join(parts[:at])}", parts[at] == "moveTo"
        target = [bucket, *parts[at + 2 :]] if move else [parts[at + 2], *parts[at + 4 :]]
        found = self.store.objects.get(source)
        if found is None:
            return self._answer(404, {"error": {"code": 404, "message": f"no object {source}"}})
        made = self.store.put("/".join(target), found[1], None)
        if move:
            self.store.objects.pop(source, None)
        return self._answer(200, made if move else {"done": True, "resource": made})

    def _object(self, name: str, query: dict[str, str]) -> None:
        found = self.store.objects.get(name)
        if found is None:
            return self._answer(404, {"error": {"code": 404, "message": f"no object {name}"}})
        generation, data = found
        if self.command == "DELETE":
            self.store.objects.pop(name, None)
            return self._answer(204, None)
        if query.get("ifGenerationNotMatch") == str(generation):
            return self._answer(304, None)
        if query.get("alt") != "media":
            return self._answer(200, self.store.describe(name))
        code, extra = 200, {"x-goog-generation": str(generation)}
        if wanted := self.headers.get("Range"):
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            end = min(int(last) + 1 if last else len(data), len(data))
            if not first:
                first, end = len(data) - int(last), len(data)
            code, extra["Content-Range"] = 206, f"bytes {first}-{end - 1}/{len(data)}"
            data = data[int(first) : end]
        return self._answer(code, data, **extra)

    def _answer(self, code: int, body: dict | bytes | None, **headers: str) -> None:
        data = json.dumps(body).encode() if isinstance(body, dict) else body or b""
        self.send_response(code)
        for key, value in headers.items():
            self.send_header(key, value)
        kind = "application/json" if isinstance(body, dict) else "application/octet-stream"
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


class Server(http.server.ThreadingHTTPServer):
    """A server that does not report connections that clients drop."""

    request_queue_size = 128
    daemon_threads = True

    def handle_error(self, request, client_address) -> None:
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


@contextlib.contextmanager
def serve() -> Iterator[tuple[Bucket, dict[str, str]]]:
    """Yields the store, and environment variables that point all three libraries at it."""
    store = Bucket()
    server = Server(("127.0.0.1", 0), type("Bound", (Handler,), {"store": store}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield (
            store,
            {
                "STORAGE_EMULATOR_HOST": url,  # gcsfs, google-cloud-storage
                "TENSORSTORE_GCS_HTTP_URL": url,
                "GOOGLE_AUTH_TOKEN_FOR_TESTING": "none",  # TensorStore
                "GOOGLE_CLOUD_PROJECT": "none",
                "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # queries another service first
                "NO_GCE_CHECK": "true",
            },
        )
    finally:
        server.shutdown()
        server.server_close()
