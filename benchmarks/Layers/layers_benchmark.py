"""A build whose layers are there already: on the same worker, and on one that gets them from the farm."""
import json
import os
import re
import shutil
import signal
import subprocess
import tarfile
import time
from pathlib import Path

DOCKER = "/usr/bin/docker"
STEPS = ["apt-get update", "apt-get install -y --no-install-recommends python3-numpy", "apt-get install -y --no-install-recommends g++",
         "mkdir -p /opt/tool && echo {middle} > /opt/tool/settings",
         "apt-get install -y --no-install-recommends gfortran", "apt-get install -y --no-install-recommends python3-h5py python3-pil",
         "apt-get install -y --no-install-recommends cmake git", "rm -rf /var/lib/apt/lists/* && echo {mark} {last} > /opt/tool/last"]
TEN = ["jq", "bc", "tree", "file", "sqlite3", "python3-minimal", "curl", "rsync", "imagemagick-6-common", "gnuplot-nox"]


class Engine:
    """A container engine of its own, without the network, which stands for that of another machine."""

    def __init__(self, place):
        self.place, self.bridge = place, f"sfl{os.getpid() % 100000}"
        place.mkdir()
        for words in (["link", "add", self.bridge, "type", "bridge"], ["addr", "add", "198.51.100.161/28", "dev", self.bridge],
                      ["link", "set", self.bridge, "up"]):
            subprocess.run(["ip", *words], check=True)
        self.address = f"unix://{place}/socket"
        self.process = subprocess.Popen(
            ["dockerd", "--data-root", place / "data", "--exec-root", place / "run", "--pidfile", place / "pid", "-H", self.address,
             "--bridge", self.bridge, "--iptables=false", "--ip-forward=false", "--ip-masq=false"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(100):
            if subprocess.run([DOCKER, "-H", self.address, "version"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0:
                return
            time.sleep(0.2)
        raise SystemExit("no second engine answers")

    def empty(self):
        script = f"{DOCKER} image rm -f $({DOCKER} image ls -q | sort -u); {DOCKER} builder prune -af"
        subprocess.run(["sh", "-c", script], env=dict(os.environ, DOCKER_HOST=self.address), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def end(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()
        subprocess.run(["ip", "link", "del", self.bridge])


class Farm:
    def __init__(self, build, scratch):
        self.program, self.scratch = build("sciferry"), scratch
        for product in ("sciferry-coordinator", "sciferry-worker"):
            build(product)
        self.home = scratch / "farm"
        self.environment = dict(os.environ, SCIFERRY_HOME=str(self.home))
        self.children = {}
        self.sciferry("init", "--name", "bench")
        settings = json.loads((self.home / "farm.json").read_text())
        settings["contactSeconds"], settings["layers"] = 0.3, {"leastSeconds": 0}
        (self.home / "farm.json").write_text(json.dumps(settings))
        self.start("coordinator", [self.program.parent / "sciferry-coordinator", "--home", self.home])
        self.wait(lambda: subprocess.run([self.program, "workers"], env=self.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0)

    def start(self, name, command):
        self.children[name] = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=open(self.scratch / f"{name}.log", "ab"))

    def stop(self, name):
        child = self.children.pop(name)
        child.kill()
        child.wait()

    def wait(self, what):
        for _ in range(3000):
            if what():
                return
            time.sleep(0.1)
        raise SystemExit("waited in vain: " + (self.scratch / "coordinator.log").read_text()[-2000:])

    def sciferry(self, *words):
        run = subprocess.run([self.program, *words], env=self.environment, stdout=subprocess.PIPE, text=True)
        if run.returncode != 0:
            raise SystemExit(f"sciferry {' '.join(map(str, words))} failed:\n{run.stdout}")
        return run.stdout

    def worker(self, name, engine=""):
        home = self.scratch / name
        token = self.sciferry("worker", "token", name).strip()
        program = self.program.parent / "sciferry-worker"
        subprocess.run([program, "join", token, "--home", home], check=True, stdout=subprocess.DEVNULL)
        settings = json.loads((home / "worker.json").read_text())
        # A proxy that is killed with its worker would stay, and spare later builds their downloads.
        settings["dockerHost"], settings["inputCacheGigabytes"] = engine, 0
        (home / "worker.json").write_text(json.dumps(settings))
        self.start(name, [program, "run", "--home", home])

    def recipe(self, name, steps, test):
        place = self.scratch / "recipes" / name
        place.mkdir(parents=True, exist_ok=True)
        directives = "".join(f"    - run:\n        - {json.dumps(step)}\n" for step in steps)
        (place / "build.yaml").write_text(
            f"name: {name}\nversion: '1'\narchitectures: [x86_64]\ndescription: A benchmark.\nbuild:\n  kind: neurodocker\n"
            f"  base-image: debian:bookworm\n  add-default-template: false\n  directives:\n{directives}"
            f"deploy:\n  bins: [cat]\nx-sciferry:\n  limits: {{disk_gib: 3}}\n  instructions: warn\n")
        # What else decides a build's key, and no layer.
        (place / "fulltest.yaml").write_text(f"tests:\n  - name: test {test}\n    command: cat /etc/debian_version\n")
        return place

    def kept(self):
        return (self.scratch / "coordinator.log").read_text().count('"layers kept"')

    def build(self, place):
        """Builds; gives the seconds until the image was there, those of the whole attempt, and the log."""
        self.sciferry("build", place)
        job = [view for view in json.loads(self.sciferry("jobs", "--json")) if view["job"]["kind"] == "build"][-1]
        took = job["publication"]["result"]["phaseSeconds"]
        log = self.sciferry("logs", job["job"]["id"])
        return sum(took.get(phase, 0) for phase in ("base", "fetch", "build")), sum(took.values()), log


def layers(args, scratch, build, root):
    engine, farm, mark = Engine(scratch / "engine"), Farm(build, scratch), os.urandom(6).hex()
    try:
        farm.worker("w1")
        farm.build(farm.recipe("warmup", [f"echo {mark}"], 0))

        def steps(middle="a", last="a"):
            return [step.format(mark=mark, middle=middle, last=last) for step in [f"echo {mark}", *STEPS]]

        kept = farm.kept()
        cold = farm.build(farm.recipe("layers", steps(), 1))
        farm.wait(lambda: farm.kept() > kept)
        warm = farm.build(farm.recipe("layers", steps(), 2))
        last = farm.build(farm.recipe("layers", steps(last="b"), 3))
        middle = farm.build(farm.recipe("layers", steps(middle="b"), 4))
        image = "sciferry-cache:layers-x86_64"
        # The whole of it once more on a worker that has nothing but the engine.
        farm.build(farm.recipe("layers", steps(), 5))
        farm.stop("w1")
        farm.worker("w2", engine.address)
        fresh = farm.build(farm.recipe("layers", steps(), 6))
        brought = int(re.search(r"bringing \d+: (\d+) MiB", fresh[2]).group(1)) << 20
        fresh_last = farm.build(farm.recipe("layers", steps(last="c"), 7))
        farm.stop("w2")
        bound = warm[0] + 1.3 * bare(farm, engine, scratch, image, brought)
        size = int(subprocess.check_output([DOCKER, "image", "inspect", "--format", "{{.Size}}", image], text=True))
        figures = [
            ("cold_s", cold[0], "s", "the whole attempt", cold[1]), ("warm_s", warm[0], "s", "the whole attempt", warm[1]),
            ("last_step_s", last[0], "s", "the whole attempt", last[1]), ("middle_step_s", middle[0], "s", "the whole attempt", middle[1]),
            ("fresh_s", fresh[0], "s", "the whole attempt", fresh[1]), ("fresh_last_step_s", fresh_last[0], "s", "the whole attempt", fresh_last[1]),
            ("warm_over_cold", warm[0] / cold[0], "of its time", None, None), ("fresh_over_cold", fresh[0] / cold[0], "of its time", None, None),
            ("fresh_over_bound", fresh[0] / bound, "of its time", None, None),
            ("bytes_moved", brought / 1e6, "MB", "the image", size / 1e6),
        ]
        return figures + ten(farm, scratch, mark)
    finally:
        for name in list(farm.children):
            farm.stop(name)
        engine.end()


def bare(farm, engine, scratch, image, count):
    """Seconds to read so many bytes over HTTP, and to have an engine load the same layers."""
    packs = sorted((path for path in farm.home.rglob("layers/packs/*/*") if path.is_file()), key=lambda path: -path.stat().st_size)
    packs = packs or sorted((path for path in farm.home.rglob("layers/packs/*") if path.is_file()), key=lambda path: -path.stat().st_size)
    server = subprocess.Popen(["python3", "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory", packs[0].parent], stdout=subprocess.PIPE,
                              stderr=subprocess.DEVNULL, text=True, env=dict(os.environ, PYTHONUNBUFFERED="1"))
    port = re.search(r"port (\d+)", server.stdout.readline()).group(1)
    left, start = count, time.monotonic()
    while left > 0:
        for pack in packs:
            if left <= 0:
                break
            take = min(left, pack.stat().st_size)
            at = os.path.relpath(pack, packs[0].parent)
            if at.startswith(".."):
                shutil.copyfile(pack, scratch / "bare")
            else:
                subprocess.run(["curl", "-sf", "-r", f"0-{take - 1}", "-o", scratch / "bare", f"http://127.0.0.1:{port}/{at}"], check=True)
            left -= take
    fetched = time.monotonic() - start
    server.kill()
    saved = scratch / "saved"
    saved.mkdir()
    subprocess.run(["bash", "-ec", f"{DOCKER} save {image} | tar -C {saved} -xf -"], check=True)
    manifest = json.loads((saved / "manifest.json").read_text())[0]
    # The base lies in the engine already.
    engine.empty()
    base = subprocess.check_output([DOCKER, "image", "ls", "--format", "{{.Repository}}:{{.Tag}}", "--filter", "reference=sciferry-base:*"], text=True).split()
    first = subprocess.check_output([DOCKER, "image", "inspect", "--format", "{{index .RootFS.Layers 0}}", image], text=True).strip()
    for name in base:
        if subprocess.check_output([DOCKER, "image", "inspect", "--format", "{{index .RootFS.Layers 0}}", name], text=True).strip() == first:
            subprocess.run(["bash", "-ec", f"{DOCKER} save {name} | {DOCKER} -H {engine.address} load"], check=True, stdout=subprocess.DEVNULL)
    with tarfile.open(scratch / "layers.tar", "w") as archive:
        archive.add(saved / "manifest.json", "manifest.json")
        archive.add(saved / manifest["Config"], manifest["Config"])
        for layer in manifest["Layers"][1:]:
            archive.add(saved / layer, layer)
    start = time.monotonic()
    subprocess.run([DOCKER, "-H", engine.address, "load", "-i", scratch / "layers.tar"], check=True, stdout=subprocess.DEVNULL)
    return fetched + time.monotonic() - start


def ten(farm, scratch, mark):
    """What the layers of ten images take up that stand on one base."""
    farm.start("w1", [farm.program.parent / "sciferry-worker", "run", "--home", farm.scratch / "w1"])
    before, kept = stored(farm), farm.kept()
    for package in TEN:
        name = f"ten-{package.replace('.', '-')}"
        farm.build(farm.recipe(name, [f"echo {mark}; apt-get update", f"apt-get install -y --no-install-recommends {package}"], 1))
    farm.wait(lambda: farm.kept() >= kept + len(TEN))
    after = stored(farm)
    sizes = zstd = 0
    for package in TEN:
        image = f"sciferry-cache:ten-{package.replace('.', '-')}-x86_64"
        sizes += int(subprocess.check_output([DOCKER, "image", "inspect", "--format", "{{.Size}}", image], text=True))
        zstd += int(subprocess.check_output(["bash", "-ec", f"{DOCKER} save {image} | zstd -3 -c | wc -c"], text=True))
    return [("ten_images_stored_mb", (after - before) / 1e6, "MB", "docker save | zstd -3", zstd / 1e6),
            ("ten_images_share", (after - before) / sizes, "of their sizes", None, None)]


def stored(farm):
    return sum(path.stat().st_size for path in farm.home.rglob("layers/**/*") if path.is_file())
