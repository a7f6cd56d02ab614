"""Serves the files of a directory. usage: images.py DIRECTORY PORT-FILE LOG

Knows ranges and tags (RFC 9110, section 14), breaks off the first transfer of every file whose name begins with "break", and logs a line
for each request. Of what begins with "break-change" there is another content and tag after that, "break-untagged" has no tag, and "huge"
has a length that no file has.
"""
import http.server
import os
import sys
import urllib.parse

directory, port_file, log = sys.argv[1:4]
broken = set()


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *arguments):
        pass

    def do_HEAD(self):
        self.answer(False)

    def do_GET(self):
        self.answer(True)

    def answer(self, sends):
        name = urllib.parse.unquote(self.path.lstrip("/"))
        path = os.path.join(directory, name)
        with open(log, "a") as lines:
            lines.write(f"{self.command} {name} {self.headers.get('Range', '-')}\n")
        if "/" in name or not os.path.isfile(path):
            self.send_error(404)
            return
        with open(path, "rb") as file:
            content = file.read()
        tag = f'"{os.stat(path).st_mtime_ns}"'
        if name.startswith("break-change") and name not in broken:
            content, tag = b"x" * len(content), '"before"'
        start = 0
        wanted = self.headers.get("Range")
        if wanted and self.headers.get("If-Range", tag) == tag:
            start = int(wanted.split("=")[1].split("-")[0])
        self.send_response(206 if start else 200)
        length = len(content) - start
        self.send_header("Content-Length", str((1 << 63) - 1 if name.startswith("huge") else length))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if not name.startswith("break-untagged"):
            self.send_header("ETag", tag)
        self.end_headers()
        if not sends:
            return
        end = len(content)
        if name.startswith("break") and name not in broken:
            broken.add(name)
            end = start + (end - start) // 2
            self.close_connection = True
        self.wfile.write(content[start:end])


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
with open(port_file + ".new", "w") as file:
    file.write(str(server.server_address[1]))
os.rename(port_file + ".new", port_file)
server.serve_forever()
