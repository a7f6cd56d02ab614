"""Stands before an S3 server and spoils what its rules say.

usage: fault-proxy.py BACKEND-PORT LOG [CERTIFICATE KEY] < rules

Rules come as one line of JSON: [{"match": "GET .*/key", "times": 2, "fault": "reset"}, ...]. The first rule that matches "METHOD path" and has
times left is used up. The port stands on the first line of the output; every request becomes a line of the log: METHOD path status sent.
"""
import http.client
import http.server
import json
import re
import socket
import ssl
import struct
import sys
import threading
import time
from email.utils import formatdate

BACKEND, LOG = int(sys.argv[1]), open(sys.argv[2], "a", buffering=1)
RULES = json.loads(sys.stdin.readline())
LOCK = threading.Lock()


def take(line):
    with LOCK:
        for rule in RULES:
            if rule["times"] > 0 and re.search(rule["match"], line):
                rule["times"] -= 1
                return rule["fault"]
    return None


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def reset(self):
        # With a linger time of 0 the connection is reset, not closed.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    def refuse(self, status, code, headers=(), more=""):
        body = f"<Error><Code>{code}</Code><Message>injected</Message>{more}</Error>".encode()
        self.send_response_only(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def handle_any(self):
        line = f"{self.command} {self.path}"
        fault = take(line)
        length = int(self.headers.get("Content-Length") or 0)
        if fault == "reset-upload":
            self.rfile.read(length // 2)
            return self.reset()
        body = self.rfile.read(length)
        if fault == "stall":
            time.sleep(30)
            return self.reset()
        refusals = {"500": (500, "InternalError"), "503": (503, "SlowDown"), "403": (403, "AccessDenied"), "507": (507, "InsufficientStorage"),
                    "expired": (400, "ExpiredToken"), "404": (404, "NoSuchKey")}
        if fault in refusals:
            return self.refuse(*refusals[fault])
        if fault == "region" and "/us-east-1/" in (self.headers.get("Authorization") or ""):
            return self.refuse(400, "AuthorizationHeaderMalformed", more="<Region>elsewhere-1</Region>")
        if fault == "429":
            return self.refuse(429, "TooManyRequests", [("Retry-After", "1")])
        if fault == "skew":
            return self.refuse(403, "RequestTimeTooSkewed", [("Date", formatdate(time.time() - 1200, usegmt=True))])
        backend = http.client.HTTPConnection("127.0.0.1", BACKEND)
        backend.request(self.command, self.path, body, {name: value for name, value in self.headers.items() if name.lower() not in ("connection", "transfer-encoding")})
        answer = backend.getresponse()
        data = answer.read()
        LOG.write(f"{line} {answer.status} {length}\n")
        if fault == "hang-after":
            time.sleep(600)
        if fault == "lost":
            return self.reset()
        headers = [(name, value) for name, value in answer.getheaders() if name.lower() not in ("connection", "transfer-encoding", "content-length")]
        if fault == "etag":
            headers = [(name, '"' + "0" * 32 + '"' if name.lower() == "etag" else value) for name, value in headers]
        if fault == "corrupt" and data:
            data = data[:len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1:]
        if fault == "half-listing":
            data = data[:len(data) // 2]
        announced = len(data) if self.command != "HEAD" else int(answer.getheader("Content-Length") or 0)
        self.send_response_only(answer.status)
        for name, value in headers:
            self.send_header(name, value)
        if fault == "long":
            data += b"surplus"
        self.send_header("Content-Length", str(announced))
        self.end_headers()
        if fault in ("reset", "short", "stall-body"):
            self.wfile.write(data[:len(data) // 2])
            self.wfile.flush()
            if fault == "stall-body":
                time.sleep(30)
            if fault == "short":
                self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True
                return None
            return self.reset()
        if self.command != "HEAD":
            self.wfile.write(data)
        if fault == "long":
            self.close_connection = True
        return None

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_any

    def log_message(self, *args):
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request, client_address):
        pass


server = Server(("127.0.0.1", 0), Handler)
if len(sys.argv) > 4:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[3], sys.argv[4])
    server.socket = context.wrap_socket(server.socket, server_side=True)
print(server.server_address[1], flush=True)
server.serve_forever()
