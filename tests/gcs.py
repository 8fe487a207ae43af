"""A pretended Google Cloud Storage on loopback: what pyarrow's file system asks of the JSON API, and faults on demand.

It keeps to what https://cloud.google.com/storage/docs/json_api says where that decides what a client may rely on: an
object appears when its upload is complete, names are listed in order and by pages, a folder is a mere prefix (in
``prefixes``, never in ``items``), a precondition on the generation is kept. What it does not know it answers with 501.
"""

import base64
import hashlib
import itertools
import json
import re
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

MISSING_BUCKET = "The specified bucket does not exist."


class Refused(Exception):
    """An answer that is no success: status and message."""


class Store:
    """What the server holds.

    Attributes:
        buckets: contents by bucket and name, as ``(content, generation, time of change)``.
        page: names in one page of a listing; Google's is 1000.
        faults: ``{"method", "path", "status", "times", "after"}``: requests whose method is that, and in whose path
            (with query) that is found, are answered with that status, so many of them, after so many that are served.
        needs: how the header ``Authorization`` has to begin.
        asked: method and path of all requests so far.
    """

    def __init__(self):
        self.buckets, self.page, self.uploads, self.faults, self.needs, self.asked = {}, 1000, {}, [], "", []
        self.lock, self.generations = threading.RLock(), itertools.count(1_700_000_000_000_000)

    def pretend(self, wanted):
        """Take orders of a test; what was asked so far."""
        asked, self.asked = self.asked, []
        for name in wanted.pop("make", []):
            self.buckets[name] = {}
        for name, value in wanted.items():
            setattr(self, name, value)
        return asked

    def fault(self, method, path):
        """The status to answer with instead of serving, or none."""
        for fault in self.faults:
            if fault["method"] != method or fault["path"] not in path:
                continue
            if fault.get("after", 0):
                fault["after"] -= 1
            elif fault["times"]:
                fault["times"] -= 1
                return fault["status"]
        return None

    def bucket(self, name):
        """Objects of a bucket by their names."""
        if name not in self.buckets:
            raise Refused(404, MISSING_BUCKET)
        return self.buckets[name]

    def put(self, bucket, name, content, wanted=None):
        """Make an object appear; ``wanted`` is the generation that has to be there now, 0 for none."""
        objects = self.bucket(bucket)
        if wanted is not None and int(wanted) != objects.get(name, (b"", 0, 0.0))[1]:
            raise Refused(412, "At least one of the pre-conditions you specified did not hold.")
        objects[name] = (content, next(self.generations), time.time())
        return self.about(bucket, name)

    def found(self, bucket, name, generation=None):
        """Content, generation and time of an object."""
        found = self.bucket(bucket).get(name)
        if found is None or (generation and int(generation) != found[1]):
            raise Refused(404, f"No such object: {bucket}/{name}")
        return found

    def about(self, bucket, name, generation=None):
        """An object's resource."""
        content, generation, changed = self.found(bucket, name, generation)
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(changed)) + f".{int(changed % 1 * 1000):03d}Z"
        return {
            "kind": "storage#object",
            "bucket": bucket,
            "name": name,
            "generation": str(generation),
            "metageneration": "1",
            "size": str(len(content)),
            "md5Hash": base64.b64encode(hashlib.md5(content).digest()).decode(),
            "timeCreated": stamp,
            "updated": stamp,
            "storageClass": "STANDARD",
        }

    def listing(self, bucket, query):
        """One page of a listing."""
        prefix, mark, after = query.get("prefix", ""), query.get("delimiter", ""), query.get("pageToken", "")
        with_folders = query.get("includeTrailingDelimiter") == "true"
        entries = {}
        for name in sorted(self.bucket(bucket), key=str.encode):
            head, found, rest = name[len(prefix) :].partition(mark) if mark else (name, "", "")
            if not name.startswith(prefix):
                continue
            if found:
                entries[prefix + head + found] = False  # a prefix
            if not found or (with_folders and not rest):
                entries[name + "\0"] = True
        left = sorted(entry for entry in entries if not after or entry > after)
        page = left[: min(self.page, int(query.get("maxResults", 1000)))]
        return {
            "kind": "storage#objects",
            "items": [self.about(bucket, entry[:-1]) for entry in page if entries[entry]],
            "prefixes": [entry for entry in page if not entries[entry]],
        } | ({"nextPageToken": page[-1]} if len(page) < len(left) else {})

    def begin_upload(self, bucket, name, wanted):
        """The id of a resumable upload."""
        self.bucket(bucket)
        key = f"upload-{next(self.generations)}"
        self.uploads[key] = (bucket, name, wanted, bytearray())
        return key

    def go_on(self, key, content, span):
        """Take a part of an upload: the object's resource when that was the last one, the number of bytes otherwise."""
        if key not in self.uploads:
            raise Refused(404, "no such upload")
        bucket, name, wanted, received = self.uploads[key]
        first, total = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)", span or f"bytes 0-0/{len(content)}").groups()
        if first is not None and int(first) > len(received):
            raise Refused(400, "a part is missing")
        if first is not None:
            received[int(first) :] = content
        if total == "*" or int(total) != len(received):
            return len(received)
        about = self.put(bucket, name, bytes(received), wanted)
        del self.uploads[key]
        return about


class _Handler(BaseHTTPRequestHandler):
    protocol_version, disable_nagle_algorithm = "HTTP/1.1", True
    gcs: Store

    def log_message(self, *_):
        """Nothing: what was asked is kept by the server."""

    def _serve(self):
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query, keep_blank_values=True).items()}
        body = self._body()
        if url.path == "/pretend":
            return self._send(200, self.gcs.pretend(json.loads(body)))
        self.gcs.asked.append((self.command, self.path))
        try:
            with self.gcs.lock:
                if fault := self.gcs.fault(self.command, self.path):
                    raise Refused(fault, "as the test wants it")
                if not self.headers.get("Authorization", "").startswith(self.gcs.needs):
                    raise Refused(401, "Invalid Credentials")
                answer = self._answer(url.path, query, body)
        except Refused as refused:
            status, text = refused.args
            answer = status, {"error": {"code": status, "message": text, "errors": [{"message": text}]}}
        return self._send(*answer)

    do_GET = do_POST = do_PUT = do_DELETE = _serve

    def _body(self):
        if self.headers.get("Transfer-Encoding", "") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _answer(self, path, query, body):
        if found := re.fullmatch(r"/upload/storage/v1/b/([^/]+)/o", path):
            return self._upload(unquote(found[1]), query, body)
        names = r"/storage/v1/b/([^/]+)(?:/(o)(?:/([^/]+)(?:/rewriteTo/b/([^/]+)/o/([^/]+))?)?)?"
        if not (found := re.fullmatch(names, path)):
            raise Refused(501, f"not pretended: {self.command} {path}")
        bucket, listed, name, other, target = (part and unquote(part) for part in found.groups())
        match self.command, bool(name), bool(target):
            case "GET", False, _:
                bucket_about = {"kind": "storage#bucket", "id": bucket, "name": bucket, "location": "US"}
                self.gcs.bucket(bucket)
                return 200, self.gcs.listing(bucket, query) if listed else bucket_about
            case "GET", True, False if query.get("alt") == "media":
                return self._media(self.gcs.found(bucket, name, query.get("generation")))
            case "GET", True, False:
                return 200, self.gcs.about(bucket, name, query.get("generation"))
            case "DELETE", True, False:
                self.gcs.found(bucket, name, query.get("ifGenerationMatch"))
                del self.gcs.bucket(bucket)[name]
                return 204, None
            case "POST", True, True:
                content = self.gcs.found(bucket, name, query.get("sourceGeneration"))[0]
                about, size = self.gcs.put(other, target, content, query.get("ifGenerationMatch")), str(len(content))
                done = {"kind": "storage#rewriteResponse", "done": True, "objectSize": size}
                return 200, done | {"totalBytesRewritten": size, "resource": about}
        raise Refused(501, f"not pretended: {self.command} {path}")

    def _upload(self, bucket, query, body):
        if self.command == "PUT":
            taken = self.gcs.go_on(query["upload_id"], body, self.headers.get("Content-Range"))
            if isinstance(taken, dict):
                return 200, taken
            return 308, None, {"Range": f"bytes=0-{taken - 1}"} if taken else {}
        if query.get("uploadType") == "resumable":
            name = query.get("name") or json.loads(body)["name"]
            key = self.gcs.begin_upload(bucket, name, query.get("ifGenerationMatch"))
            place = f"http://{self.headers['Host']}/upload/storage/v1/b/{bucket}/o?uploadType=resumable&upload_id={key}"
            return 200, None, {"Location": place, "X-GUploader-UploadID": key}
        raise Refused(501, f"not pretended: uploadType={query.get('uploadType')}")

    def _media(self, found):
        content, generation, _ = found
        span = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        headers = {"X-Goog-Generation": str(generation), "X-Goog-Stored-Content-Length": str(len(content))}
        if not span:
            return 200, content, headers
        first = int(span[1]) if span[1] else max(0, len(content) - int(span[2]))
        if first >= len(content):
            raise Refused(416, "Requested range not satisfiable")
        last = min(int(span[2]), len(content) - 1) if span[1] and span[2] else len(content) - 1
        headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
        return 206, content[first : last + 1], headers

    def _send(self, status, body, headers=None):
        content = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        self.send_response(status)
        kind = "application/octet-stream" if isinstance(body, bytes) else "application/json; charset=UTF-8"
        for name, value in {"Content-Type": kind, "Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)


if __name__ == "__main__":
    _Handler.gcs = Store()
    server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), _Handler)
    server.daemon_threads = True
    server.serve_forever()
