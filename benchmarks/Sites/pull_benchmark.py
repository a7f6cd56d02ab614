"""Pulls an image from three regions of unequal speed, once with one that dies and once killed, and then its next version, of which 1 % has changed.

Three HTTP servers give out the same bucket, each at its own rate and 20 ms late. The measure of a pull is what the three rates allow.
"""
import json
import os
import random
import signal
import subprocess
import time

from farm import Farm, Region

RATES = (24_000_000, 12_000_000, 6_000_000)
FILES, FILE_SIZE = 30, 8_000_000


def pulled(program, site):
    """Seconds of a pull, and what it says of itself."""
    start = time.monotonic()
    said = subprocess.run([program, "pull", "bulky", "--site", site, "--json"], check=True, capture_output=True, text=True).stdout
    return time.monotonic() - start, json.loads(said)


def pull(args, scratch, build, root):
    program, maker = build("sciferry"), build("sciferry-bench-sites")
    source = random.Random(1)
    tree = scratch / "tree"
    (tree / "bulk").mkdir(parents=True)
    (tree / "bin").mkdir()
    for index in range(FILES):
        (tree / f"bulk/{index}").write_bytes(source.randbytes(FILE_SIZE))

    def image(name):
        subprocess.run(["mksquashfs", tree, scratch / name, "-noappend", "-quiet", "-no-progress", "-no-fragments"], check=True, stdout=subprocess.DEVNULL)
        return scratch / name

    bucket = scratch / "bucket"
    farm = Farm(maker, bucket)
    servers = [Region(bucket, rate) for rate in RATES]
    try:
        farm("add", "bulky", "1.0", image("one.sif"))
        farm("publish")

        def site(name):
            farm("site", scratch / name, *(f"http://127.0.0.1:{server.server_port}/" for server in servers))
            return scratch / name

        shares = []
        for index in range(max(3, args.rounds)):
            seconds, report = pulled(program, site(f"site-{index}"))
            shares.append(report["quote"]["fetchBytes"] / seconds / sum(RATES))
            print(f"pull {index}: {seconds:.2f} s, {shares[-1]:.3f} of the sum; each gave", [server.sent for server in servers])
        share = sorted(shares)[len(shares) // 2]
        fetched = report["quote"]["fetchBytes"]
        # The second one dies when it has given half of its part; the others take the rest.
        victim = servers[1]
        before = victim.sent
        victim.dies_after = victim.sent + int(fetched * RATES[1] / sum(RATES) / 2)
        dying, _ = pulled(program, site("site-dying"))
        until = (victim.sent - before) / RATES[1]
        allowed = (until + (fetched - until * sum(RATES)) / (RATES[0] + RATES[2])) / share
        victim.dead, victim.dies_after = False, None
        # Killed in the middle and begun again: what was sent twice.
        place = site("site-killed")
        before = sum(server.sent for server in servers)
        child = subprocess.Popen([program, "pull", "bulky", "--site", place], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while sum(server.sent for server in servers) - before < fetched / 2:
            time.sleep(0.01)
        child.send_signal(signal.SIGKILL)
        child.wait()
        time.sleep(1)
        pulled(program, place)
        twice = sum(server.sent for server in servers) - before - fetched
        # The next version: 1 % of each file is new.
        for index in range(FILES):
            with open(tree / f"bulk/{index}", "r+b") as file:
                file.seek(FILE_SIZE // 2)
                file.write(source.randbytes(FILE_SIZE // 100))
        farm("add", "bulky", "1.1", image("two.sif"))
        farm("publish")
        _, update = pulled(program, scratch / "site-0")
        return [
            ("three_region_share", share, "of their sum", None, None),
            ("dying_region_costs_s", dying - allowed, "s", None, None),
            ("fetched_twice_mib", twice / 2**20, "MiB", None, None),
            ("update_byte_share", update["quote"]["fetchBytes"] / update["quote"]["imageBytes"], "of the image", None, None),
        ]
    finally:
        farm.stop()
        for server in servers:
            server.shutdown()
