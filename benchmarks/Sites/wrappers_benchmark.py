"""Calls a small command through our launcher, beside the runtimes alone, and lists 2,000 modules.

Each kind of call is made in turn, round after round, so that all of them meet the same machine; the figure is the least of the rounds' means.
"""
import os
import shutil
import subprocess
import time

from farm import Farm


def mean_ms(words, count, environment, directory):
    """Milliseconds of a call, over so many in a row by one shell."""
    script = f"i=0; while [ $i -lt {count} ]; do \"$@\"; i=$((i+1)); done"
    start = time.monotonic()
    subprocess.run(["dash", "-c", script, "-", *words], check=True, env=environment, cwd=directory, stdout=subprocess.DEVNULL)
    return (time.monotonic() - start) * 1000 / count


def make_image(root, scratch):
    tree = scratch / "tree"
    for name in ("bin", "dev", "proc", "sys", "tmp", "run", "var/tmp", "etc", "root", "home", "srv", "opt/probe/bin", ".singularity.d/env"):
        (tree / name).mkdir(parents=True, exist_ok=True)
    shutil.copy("/bin/busybox", tree / "bin/busybox")
    for name in subprocess.check_output(["/bin/busybox", "--list"], text=True).split():
        if name != "busybox":
            (tree / "bin" / name).symlink_to("busybox")
    for name in ("passwd", "group", "hosts", "resolv.conf", "localtime"):
        (tree / "etc" / name).touch()
    (tree / ".singularity.d/env/10-docker2singularity.sh").write_text("export PATH='/opt/probe/bin:/bin'\n")
    image = scratch / "probe.sif"
    subprocess.run(["mksquashfs", tree, image, "-all-root", "-noappend", "-quiet", "-no-progress"], check=True, stdout=subprocess.DEVNULL)
    return image


def make_site(program, image, scratch):
    site = scratch / "site"
    for name in ("bin", "images/probe", "tools/probe/1/bin"):
        (site / name).mkdir(parents=True)
    launcher = site / "bin/sciferry-launch"
    launcher.write_bytes(subprocess.check_output([program, "launcher"]))
    launcher.chmod(0o755)
    shutil.copy(image, site / "images/probe/image.sif")
    (site / "images/probe/launch").write_text("offset 0\n")
    (site / "tools/probe/1/launch").write_text("offer x86_64_v2 x86_64 - 'cx16 lahf_lm mmx sse sse2 ssse3 sse4_1 sse4_2 popcnt' probe\n")
    (site / "tools/probe/1/bin/true").symlink_to("../../../../bin/sciferry-launch")
    return site / "tools/probe/1/bin/true"


def let_go(mounts):
    for holder in mounts.glob("*.d*/holder"):
        words = holder.read_text().split()
        if words:
            subprocess.run(["kill", words[0]], stderr=subprocess.DEVNULL)
    for mount in mounts.iterdir() if mounts.exists() else []:
        subprocess.run(["umount", "-l", mount], stderr=subprocess.DEVNULL)


def make_modules(program, scratch):
    """2,000 modules as we write them: 500 tools in four versions, with six commands each."""
    farm = Farm(program, scratch / "bucket")
    farm("modules", scratch / "modules-site", 500, 4, 6)
    farm.stop()
    return scratch / "modules-site"


def wrappers(args, scratch, build, root):
    program = build("sciferry-bench-sites")
    image = make_image(root, scratch)
    wrapper = make_site(program, image, scratch)
    mounts = scratch / "mounts"
    work = scratch / "work"
    work.mkdir()
    environment = dict(os.environ, SCIFERRY_MOUNTS=str(mounts), PWD=str(work))
    fast = dict(environment, SCIFERRY_RUNTIME="bwrap")
    subprocess.run([wrapper], check=True, env=fast, cwd=work)
    place = root / ".build/singularity"
    has_apptainer = subprocess.run([root / "scripts/install-singularity", place]).returncode == 0
    slow = dict(environment, SCIFERRY_RUNTIME="apptainer", PATH=f"{place}/usr/bin:{os.environ['PATH']}")
    bare = ["apptainer", "--silent", "exec", "--no-eval", str(image), "true"]
    seen = {"fast": [], "shell": [], "apptainer": [], "bare": []}
    for _ in range(max(3, args.rounds)):
        seen["shell"].append(mean_ms(["/bin/sh", "-c", ":"], 200, fast, work))
        seen["fast"].append(mean_ms([str(wrapper)], 200, fast, work))
        if has_apptainer:
            seen["apptainer"].append(mean_ms([str(wrapper)], 20, slow, work))
            seen["bare"].append(mean_ms(bare, 20, slow, work))
    for index in range(10_000):
        (work / f"{index}").touch()
    start = time.monotonic()
    subprocess.run(["find", ".", "-type", "f", "-exec", str(wrapper), "{}", ";"], check=True, env=fast, cwd=work)
    ten_thousand = time.monotonic() - start
    let_go(mounts)
    site = make_modules(program, scratch)
    script = '. /usr/share/lmod/lmod/init/bash; export LMOD_PAGER=none; {use}; for i in 1 2 3 4 5 6 7 8 9 10; do date +%s%N; module avail >/dev/null 2>&1; done; date +%s%N'
    def avail(use):
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("LMOD", "MODULE", "_LMOD", "__LMOD"))}
        stamps = [int(line) for line in subprocess.check_output(["bash", "-c", script.replace("{use}", use)], text=True, env=clean).split()]
        times = sorted(b - a for a, b in zip(stamps, stamps[1:]))
        return times[len(times) // 2] / 1e6
    cached, plain = avail(f". '{site}/init/sh'"), avail(f"module use '{site}/modules'")
    figures = [
        ("fast_call_ms", min(seen["fast"]), "ms", "sh -c :", min(seen["shell"])),
        ("find_exec_10000_s", ten_thousand, "s", None, None),
        ("avail_2000_ms", cached, "ms", "without cache", plain),
    ]
    if has_apptainer:
        overhead = sorted(a - b for a, b in zip(seen["apptainer"], seen["bare"]))[len(seen["bare"]) // 2]
        figures.append(("apptainer_overhead_ms", overhead, "ms", "bare Apptainer's call", min(seen["bare"])))
    return figures
