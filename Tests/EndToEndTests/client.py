#!/usr/bin/env python3
"""A second implementation of the worker's half of protocol/README.md: standard library `ssl` plus `protobuf`.

usage: client.py MODE --home DIR [--link HOST:PORT] [--token TOKEN] [--pb DIR] ...
Prints one JSON object. The messages are the protoc-generated module farm_pb2.
"""
import argparse
import base64
import hashlib
import json
import socket
import ssl
import struct
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

TYPES = {name: number for number, name in enumerate(
    "hello welcome state desired fetch data end window log ask answer goodbye".split(), 1)}
NAMES = {number: name for name, number in TYPES.items()}
LIMIT = 262144


def frame(kind, stream, body, length=None):
    return struct.pack(">IBBHI", len(body) if length is None else length, 1, TYPES[kind], 0, stream) + body


def receive(connection):
    """One frame as (type, stream, body); None at the end."""
    head = b""
    while len(head) < 12:
        part = connection.recv(12 - len(head))
        if not part:
            return None
        head += part
    length, version, kind, flags, stream = struct.unpack(">IBBHI", head)
    assert version == 1 and flags == 0 and length <= LIMIT
    body = b""
    while len(body) < length:
        part = connection.recv(length - len(body))
        if not part:
            return None
        body += part
    return NAMES[kind], stream, body


def enrol(args):
    """Section 1. The request is made by openssl, so that nothing of ours is needed."""
    home = Path(args.home)
    home.mkdir(parents=True, exist_ok=True)
    url, rest = args.token.split("#")
    fields = dict(part.split("=", 1) for part in rest.split("&"))
    name, secret = fields["token"].split(".", 1)
    if not (home / "key.pem").exists():
        subprocess.run(["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", home / "key.pem"], check=True)
    subprocess.run(["openssl", "req", "-new", "-key", home / "key.pem", "-subj", "/CN=python", "-outform", "DER", "-out", home / "csr.der"], check=True)
    blind = ssl.create_default_context()
    blind.check_hostname = False
    blind.verify_mode = ssl.CERT_NONE
    authority = urllib.request.urlopen(f"{url}/api/v1/authority", context=blind).read().decode()
    pinned = hashlib.sha256(ssl.PEM_cert_to_DER_cert(authority)).hexdigest()
    if pinned != fields["ca"]:
        return {"error": "identity.pin"}
    (home / "ca.pem").write_text(authority)
    trusted = ssl.create_default_context(cadata=authority)
    body = json.dumps({"token": name, "secret": secret, "request": base64.b64encode((home / "csr.der").read_bytes()).decode()})
    request = urllib.request.Request(f"{url}/api/v1/enrol", body.encode(), {"Content-Type": "application/json"})
    try:
        reply = json.load(urllib.request.urlopen(request, context=trusted))
    except urllib.error.HTTPError as error:
        return {"status": error.code, "error": json.load(error)["error"]["code"]}
    (home / "leaf.pem").write_text(reply["certificate"])
    return {"worker": reply["worker"], "link": reply["link"], "certificate": hashlib.sha256(reply["certificate"].encode()).hexdigest()}


def connect(args):
    home = Path(args.home)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(home / "ca.pem")
    if not args.anonymous:
        context.load_cert_chain(args.certificate or home / "leaf.pem", args.key or home / "key.pem")
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2 if args.tls12 else ssl.TLSVersion.TLSv1_3
    if not args.no_alpn:
        context.set_alpn_protocols(["sciferry/1"])
    host, port = args.link.split(":")
    plain = socket.create_connection((host, int(port)), timeout=15)
    connection = context.wrap_socket(plain)
    connection.settimeout(15)
    return connection


def hello(pb, name):
    message = pb.Hello(versions=[1], worker=name, process="python")
    message.facts.host_name = "python"
    message.facts.architecture = "x86_64"
    message.facts.target = "x86_64"
    message.facts.slots = 1
    return frame("hello", 0, message.SerializeToString())


def until_goodbye(connection, pb):
    """The code with which the coordinator closes."""
    try:
        while True:
            got = receive(connection)
            if got is None:
                return "closed"
            if got[0] == "goodbye":
                message = pb.Goodbye()
                message.ParseFromString(got[2])
                return message.code
    except (ssl.SSLError, ConnectionError, TimeoutError) as error:
        return type(error).__name__


def refused(args, pb):
    """Tries to take part; says how it ended."""
    try:
        connection = connect(args)
        connection.sendall(hello(pb, args.name))
        return {"ended": until_goodbye(connection, pb)}
    except (ssl.SSLError, ConnectionError) as error:
        return {"ended": "handshake", "reason": str(error)}


def exchange(args, pb):
    """Sections 4 to 8: hello, one exchange, a question it may not ask, a fetch of what is not there."""
    connection = connect(args)
    connection.sendall(hello(pb, args.name))
    kind, _, body = receive(connection)
    welcome = pb.Welcome()
    welcome.ParseFromString(body)
    state = pb.WorkerState(sequence=1, disk_free_bytes=1 << 40, free_slots=0)
    if args.claim:
        state.attempts.add(id=args.claim, phase="build")
    connection.sendall(frame("state", 0, state.SerializeToString()))
    kind, _, body = receive(connection)
    desired = pb.DesiredState()
    desired.ParseFromString(body)
    ask = pb.Ask(attempt=args.claim or "j1.1")
    ask.missing.digests = hashlib.sha256(b"x").digest()
    connection.sendall(frame("ask", 1, ask.SerializeToString()))
    _, _, body = receive(connection)
    answer = pb.Answer()
    answer.ParseFromString(body)
    connection.sendall(frame("fetch", 2, pb.Fetch(digest=hashlib.sha256(b"nothing").digest()).SerializeToString()))
    _, _, body = receive(connection)
    end = pb.End()
    end.ParseFromString(body)
    return {"farm": welcome.farm, "version": welcome.version, "sequence": desired.sequence,
            "assignments": len(desired.assignments), "ask": answer.failure.code, "fetch": end.code}


def violate(args, pb):
    """Sends one golden vector after the opening and says with which code the coordinator closes."""
    connection = connect(args)
    connection.sendall(hello(pb, args.name))
    receive(connection)
    digits = "".join(Path(args.vector).read_text().split())
    connection.sendall(bytes.fromhex(digits))
    return {"ended": until_goodbye(connection, pb)}


def stay(args, pb):
    """Stays connected until the coordinator ends it."""
    connection = connect(args)
    connection.sendall(hello(pb, args.name))
    receive(connection)
    print("connected", flush=True)
    for sequence in range(1, 200):
        try:
            connection.sendall(frame("state", 0, pb.WorkerState(sequence=sequence).SerializeToString()))
            got = receive(connection)
        except (ssl.SSLError, ConnectionError):
            return {"ended": "broken"}
        if got is None:
            return {"ended": "closed"}
        if got[0] == "goodbye":
            message = pb.Goodbye()
            message.ParseFromString(got[2])
            return {"ended": message.code}
        time.sleep(0.1)
    return {"ended": "never"}


def plain(args, _):
    """Plain text on the port."""
    host, port = args.link.split(":")
    connection = socket.create_connection((host, int(port)), timeout=15)
    connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 4)
    try:
        answer = connection.recv(1000)
    except ConnectionError:
        answer = b""
    return {"ended": "closed" if not answer or answer[0] == 21 else "answered"}


def vectors(args, pb):
    """Decodes every golden vector with the generated messages."""
    messages = {"hello": pb.Hello, "welcome": pb.Welcome, "state": pb.WorkerState, "desired": pb.DesiredState,
                "fetch": pb.Fetch, "log": pb.LogOpen, "ask": pb.Ask, "end": pb.End, "goodbye": pb.Goodbye}
    count = 0
    for path in sorted(Path(args.vectors).glob("*.json")):
        meaning = json.loads(path.read_text())
        data = bytes.fromhex("".join(path.with_suffix(".hex").read_text().split()))
        length, version, kind, flags, stream = struct.unpack(">IBBHI", data[:12])
        if "error" in meaning:
            assert length > LIMIT or version != 1 or kind not in NAMES or flags != 0, path
        else:
            assert (NAMES[kind], stream, length) == (meaning["type"], meaning["stream"], meaning["body"]), path
            if "sessionError" not in meaning and meaning["type"] in messages:
                messages[meaning["type"]]().ParseFromString(data[12:])
        count += 1
    return {"vectors": count}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("mode", choices=["enrol", "exchange", "refused", "violate", "stay", "plain", "vectors"])
    for option in ["home", "link", "token", "pb", "name", "claim", "certificate", "key", "vector", "vectors"]:
        parser.add_argument(f"--{option}")
    for option in ["tls12", "anonymous", "no-alpn"]:
        parser.add_argument(f"--{option}", action="store_true")
    args = parser.parse_args()
    if args.mode == "enrol":
        print(json.dumps(enrol(args)))
        return
    sys.path.insert(0, args.pb)
    import farm_pb2
    print(json.dumps(globals()[args.mode](args, farm_pb2)))


if __name__ == "__main__":
    main()
