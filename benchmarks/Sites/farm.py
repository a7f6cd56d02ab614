"""A farm without workers and regions with lines of their own, for the benchmarks of sites."""
import http.server
import re
import socketserver
import subprocess
import threading
import time


class Region(socketserver.ThreadingMixIn, http.server.HTTPServer):
    """A bucket behind a line of its own: all its answers share one rate."""
    daemon_threads = True
    request_queue_size = 256

    def __init__(self, place, rate, latency=0.02):
        self.latency = latency
        self.place, self.rate, self.free, self.lock = place, rate, time.monotonic(), threading.Lock()
        self.sent, self.requests, self.dead, self.dies_after = 0, 0, False, None
        super().__init__(("127.0.0.1", 0), Answer)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def handle_error(self, request, address):
        pass

    def pay(self, count):
        """Waits until the line has room for so many bytes."""
        with self.lock:
            if self.dies_after is not None and self.sent > self.dies_after:
                self.dead = True
            self.sent += count
            now = time.monotonic()
            self.free = max(self.free, now - 0.05) + count / self.rate
            pause = self.free - now
        if pause > 0:
            time.sleep(pause)


class Answer(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *words):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        server = self.server
        if server.dead:
            self.close_connection = True
            self.connection.close()
            return
        server.requests += 1
        time.sleep(server.latency)
        path = server.place / self.path.lstrip("/").split("?")[0]
        if not path.is_file():
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        size = path.stat().st_size
        first, last, status = 0, size - 1, 200
        found = re.match(r"bytes=(\d+)-(\d*)$", self.headers.get("Range", ""))
        if found:
            first, last, status = int(found[1]), min(int(found[2] or last), last), 206
        self.send_response(status)
        self.send_header("Content-Length", str(last - first + 1))
        if status == 206:
            self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        self.end_headers()
        if self.command == "HEAD":
            return
        with open(path, "rb") as file:
            file.seek(first)
            left = last - first + 1
            while left:
                data = file.read(min(left, 32768))
                server.pay(len(data))
                if server.dead:
                    self.close_connection = True
                    self.connection.close()
                    return
                self.wfile.write(data)
                left -= len(data)


class Farm:
    """Speaks to sciferry-bench-sites."""

    def __init__(self, program, bucket):
        bucket.mkdir()
        self.process = subprocess.Popen([program, bucket], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __call__(self, *words):
        self.process.stdin.write("\t".join(str(word) for word in words) + "\n")
        self.process.stdin.flush()
        said = self.process.stdout.readline()
        if said != "ok\n":
            raise RuntimeError(f"{words}: {said!r}")

    def stop(self):
        self.process.stdin.close()
        self.process.wait()
