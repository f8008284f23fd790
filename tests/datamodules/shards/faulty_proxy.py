"""HTTP proxy in front of a store, which answers some requests with a fault."""

import http.client
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class FaultyProxy:
    """Forward requests to `port`, except those for which ``fault(number)`` names a fault.

    A fault is "503", "cut" (half of the body, then the connection is closed), "flip" (one bit of the body is another)
    or a number of seconds to stall. `requests` are the paths of the GET requests, faulty ones included.
    """

    def __init__(self, port, fault=lambda _: None):
        self.fault, self.requests, self.faults = fault, [], []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_HEAD(self):
                self.forward("HEAD", None)

            def do_GET(self):
                outer.requests.append(self.path)
                fault = outer.fault(len(outer.requests))
                if fault is not None:
                    outer.faults.append(fault)
                self.forward("GET", fault)

            def forward(self, method, fault):
                if fault == "503":
                    self.send_response(503)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                if isinstance(fault, float):
                    time.sleep(fault)
                    self.close_connection = True
                    return
                store = http.client.HTTPConnection("127.0.0.1", port)
                store.request(method, self.path, headers=dict(self.headers))
                answer = store.getresponse()
                body = answer.read()
                self.send_response(answer.status)
                for name, value in answer.getheaders():
                    if name.lower() not in ("connection", "date", "server", "transfer-encoding"):
                        self.send_header(name, value)
                self.end_headers()
                if fault == "flip":
                    body = body[:-1] + bytes([body[-1] ^ 1])
                self.wfile.write(body[: len(body) // 2] if fault == "cut" else body)
                if fault == "cut":
                    self.close_connection = True

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server.server_port}"

    def close(self):
        self.server.shutdown()
        self.server.server_close()
