"""What the collection's runner would say of a suite, by its documented rules, with this machine in place of a container.

usage: suite-reference.py SUITE WORK

Prints a JSON object: whether each test passes, by name; "SETUP" alone when nothing runs. Written from the rules, for comparison:
- scalars of the top level and test_data are variables, `${name}` and `$name` are replaced as texts, again and again;
- paths of test_data are relative to the data's or the working directory; output_dir is emptied and made;
- setup runs without env and env_setup; a test's own env_setup replaces the suite's;
- exit code 0 is expected, unless the test says another, which must not be, or that it does not matter;
- expected texts are looked for in standard output and standard error; output_exists looks for any file;
- a test whose dependency failed counts as failed; one that is unknown or comes later does not matter;
- unknown keys and checks do nothing.
"""
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

RESERVED = {"container", "pin_container", "test_data", "setup", "cleanup", "tests", "env_setup", "default_timeout", "matlab_runtime",
            "script_runner", "script_ext", "required_files"}


def replaced(text, variables):
    for _ in range(10):
        before = text
        for name, value in variables.items():
            text = text.replace("${" + name + "}", value).replace("$" + name, value)
        if text == before:
            break
    return text


def run(script, work, timeout):
    path = work / ".script.sh"
    path.write_text("#!/usr/bin/env bash\n" + script + "\n")
    environment = {"PATH": os.environ["PATH"], "HOME": str(work), "LANG": "C.UTF-8"}
    try:
        done = subprocess.run(["bash", str(path)], cwd=work, capture_output=True, text=True, timeout=timeout, env=environment)
    except subprocess.TimeoutExpired:
        return None, ""
    finally:
        path.unlink()
    # A signal comes out of a container as a shell tells it.
    return done.returncode if done.returncode >= 0 else 128 - done.returncode, done.stdout + done.stderr


def dimensions(path):
    import struct
    head = path.read_bytes()[:348]
    rank = struct.unpack("<8h", head[40:56])
    return rank[1:rank[0] + 1]


def passes(test, suite, variables, work, runner, suffix):
    command, script = test.get("command", ""), test.get("script", "")
    if not command and not script:
        return False
    written = None
    if not command:
        written = work / f".own{suffix}"
        written.write_text(replaced(script, variables))
        written.chmod(0o755)
        command = f"{runner} {written}" if runner else str(written)
    else:
        command = replaced(command, variables)
    preparation = test.get("env_setup", suite["preparation"]) or ""
    code, output = run(replaced(preparation, variables) + "\n" + command, work, test.get("timeout", suite.get("default_timeout", 120)))
    if written:
        written.unlink()
    if code is None:
        return False
    if not test.get("ignore_exit_code", False):
        if test.get("expected_exit_code_not") is not None:
            if code == test["expected_exit_code_not"]:
                return False
        elif code != test.get("expected_exit_code", 0):
            return False
    expected = test.get("expected_output_contains") or []
    for text in [expected] if isinstance(expected, str) else expected:
        if replaced(str(text), variables) not in output:
            return False
    for check in test.get("validate", []):
        for kind, value in check.items() if isinstance(check, dict) else []:
            if kind == "output_exists" and not (work / replaced(str(value), variables)).exists():
                return False
            if kind == "same_dimensions" and isinstance(value, list) and len(value) == 2:
                one, other = (work / replaced(str(each), variables) for each in value)
                try:
                    if dimensions(one) != dimensions(other):
                        return False
                except OSError:
                    return False
    return True


def main():
    suite = yaml.safe_load(Path(sys.argv[1]).read_text())
    work = Path(sys.argv[2])
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    top = {key: str(value) for key, value in suite.items() if key not in RESERVED and isinstance(value, (str, int, float))}
    variables = {}
    for name, value in (suite.get("test_data") or {}).items():
        variables[name] = value if value.startswith("/") else str(work / value)
    for name, value in top.items():
        variables.setdefault(name, replaced(value, top))
    if "output_dir" in variables:
        shutil.rmtree(variables["output_dir"], ignore_errors=True)
        Path(variables["output_dir"]).mkdir(parents=True, exist_ok=True)
    exports = "\n".join(f'export {key}="{value}"' for key, value in (suite.get("env") or {}).items())
    suite["preparation"] = "\n".join(part for part in [exports, suite.get("env_setup") or ""] if part)
    runner, suffix = suite.get("script_runner") or "", suite.get("script_ext", ".sh")
    if not runner and (suite.get("matlab_runtime") or {}).get("runner"):
        runtime = suite["matlab_runtime"]
        runner, suffix = f"{runtime['runner']} {runtime.get('path', '')}".strip(), ".m"
    setup = suite.get("setup") or {}
    for script in [setup.get("host_script"), setup.get("script")]:
        if script and run(replaced(script, variables), work, 120)[0] != 0:
            return print(json.dumps({"SETUP": False}))
    results, failed = {}, set()
    for test in suite["tests"]:
        needs = test.get("depends_on", [])
        needs = [needs] if isinstance(needs, str) else needs
        good = not any(need in failed for need in needs) and passes(test, suite, variables, work, runner, suffix)
        results[test["name"]] = good
        if not good:
            failed.add(test["name"])
    print(json.dumps(results))


main()
