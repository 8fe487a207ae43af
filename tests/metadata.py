"""A cloud's metadata service on this machine."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class MetadataService:
    """A metadata service: what stands at which path, as text or an HTTP status; and what it was asked."""

    def __init__(self):
        self.pages, self.asked, self.tokens = {}, [], 0
        service = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self):
                service.asked.append((self.command, self.path, {k.lower(): v for k, v in self.headers.items()}))
                page = service.pages.get(self.path, 404)
                page = page(self) if callable(page) else page
                self.send_response(page if isinstance(page, int) else 200)
                self.end_headers()
                if isinstance(page, str):
                    self.wfile.write(page.encode())

            do_GET = do_PUT = answer

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def token(self, request):
        """A new token each time, of which the last one counts alone."""
        assert request.command == "PUT"
        assert request.headers["X-aws-ec2-metadata-token-ttl-seconds"] == "21600"
        self.tokens += 1
        return f"token-{self.tokens}"

    def guarded(self, text):
        """A page for whoever brings the last token."""
        return lambda request: text if request.headers["X-aws-ec2-metadata-token"] == f"token-{self.tokens}" else 401
