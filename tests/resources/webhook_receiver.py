"""A real receiver of webhooks on a free loopback port, for tests of delivery."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Receiver:
    """What arrived, and how requests are answered."""

    def __init__(self):
        self.bodies = []
        """Raw bodies of the requests that were answered with 200."""
        self.headers = []
        self.status = 200
        """What the next requests are answered with."""
        self.n_requests = 0
        self.port = 0

    @property
    def messages(self):
        """The bodies, as JSON."""
        return [json.loads(body) for body in self.bodies]

    def take(self):
        """Messages since the last call."""
        messages = self.messages
        self.bodies.clear()
        self.headers.clear()
        return messages


@contextmanager
def receiving():
    """A receiver that listens for as long as the block lasts."""
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            receiver.n_requests += 1
            if receiver.status == 200:
                receiver.bodies.append(body)
                receiver.headers.append(dict(self.headers))
            self.send_response(receiver.status)
            self.end_headers()

        def log_message(self, *_):
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    receiver.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
