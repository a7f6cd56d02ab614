"""A site of 300 tools: from scratch, with nothing to do, and with ten new versions. Counts what the bucket's server gave out."""
import json
import subprocess
import time

from farm import Farm, Region

TOOLS = 300


def site(args, scratch, build, root):
    program, maker = build("sciferry"), build("sciferry-bench-sites")
    import random
    source = random.Random(2)
    tree = scratch / "tree"
    (tree / "bin").mkdir(parents=True)
    (tree / "bin/shared").write_bytes(source.randbytes(400_000))

    def image(name):
        (tree / "bin/own").write_bytes(source.randbytes(100_000))
        subprocess.run(["mksquashfs", tree, scratch / "image", "-noappend", "-quiet", "-no-progress", "-no-fragments"], check=True, stdout=subprocess.DEVNULL)
        return scratch / "image"

    bucket, place = scratch / "bucket", scratch / "site"
    farm = Farm(maker, bucket)
    server = Region(bucket, 1_000_000_000, latency=0)
    figures = []
    try:
        for index in range(TOOLS):
            farm("add", f"tool{index}", "1.0", image("one"))
        farm("publish")
        farm("site", place, f"http://127.0.0.1:{server.server_port}/")

        def sync(title):
            sent, requests, start = server.sent, server.requests, time.monotonic()
            said = json.loads(subprocess.run([program, "site", "sync", "--site", place, "--json"], check=True, capture_output=True, text=True).stdout)
            figures.extend([
                (f"site_{title}_s", time.monotonic() - start, "s", None, None), (f"site_{title}_mb", (server.sent - sent) / 1e6, "MB", None, None),
                (f"site_{title}_requests", server.requests - requests, "requests", None, None), (f"site_{title}_images", said["images"], "images", None, None)])

        sync("fresh")
        sync("unchanged")
        for index in range(10):
            farm("add", f"tool{index}", "1.1", image("two"))
        farm("publish")
        sync("update")
        return figures
    finally:
        farm.stop()
        server.shutdown()
