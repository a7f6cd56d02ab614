"""Makes what the tests of images need, with Python's own tar: `layers DIR` the parts that a Dockerfile cannot make, `layout FILE DIR`
an OCI layout with packed layers of what docker save wrote, `listing` the listing of a tar archive on the standard input."""
import gzip, hashlib, io, json, os, sys, tarfile


def layers(directory):
    capability = b"\x01\0\0\x02\0\x20\0\0" + bytes(12)
    with tarfile.open(f"{directory}/special.tar", "w", format=tarfile.PAX_FORMAT, errors="surrogateescape") as tar:
        def add(name, kind=tarfile.REGTYPE, data=b"", **more):
            info = tarfile.TarInfo(name)
            info.type, info.size, info.mtime, info.mode = kind, len(data), 1700000000, 0o644
            for key, value in more.items():
                setattr(info, key, value)
            tar.addfile(info, io.BytesIO(data))
        add("t", tarfile.DIRTYPE, mode=0o755)
        add("t/capable", data=b"#!/bin/sh\n", mode=0o755,
            pax_headers={"SCHILY.xattr.security.capability": capability.decode("utf-8", "surrogateescape")})
        add("t/setuid", data=b"x", mode=0o6755, uid=3, gid=4)
        add("t/character", tarfile.CHRTYPE, devmajor=1, devminor=3, mode=0o600)
        add("t/block", tarfile.BLKTYPE, devmajor=7, devminor=300, mode=0o600)
        add("t/pipe", tarfile.FIFOTYPE)
        add(os.fsdecode(b"t/\xff\xfename"), data=b"raw")
        add("t/" + "long/" * 30 + "x" * 200, data=b"long")
        add("t/owner", data=b"y", uid=4000000, gid=70000)
        add("t/sticky", tarfile.DIRTYPE, mode=0o1777)
        add("t/future", data=b"z", mtime=4200000000)


def layout(archive, directory):
    os.makedirs(f"{directory}/blobs/sha256")
    def put(data):
        digest = hashlib.sha256(data).hexdigest()
        open(f"{directory}/blobs/sha256/{digest}", "wb").write(data)
        return {"digest": f"sha256:{digest}", "size": len(data)}
    with tarfile.open(archive) as tar:
        saved = json.load(tar.extractfile("manifest.json"))[0]
        config = put(tar.extractfile(saved["Config"]).read()) | {"mediaType": "application/vnd.oci.image.config.v1+json"}
        parts = [put(gzip.compress(tar.extractfile(name).read(), 1)) | {"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip"}
                 for name in saved["Layers"]]
    manifest = put(json.dumps({"schemaVersion": 2, "config": config, "layers": parts}).encode())
    other = put(b'{"schemaVersion": 2}')
    index = {"schemaVersion": 2, "manifests": [
        other | {"platform": {"os": "linux", "architecture": "arm64"}}, manifest | {"platform": {"os": "linux", "architecture": "amd64"}}]}
    open(f"{directory}/index.json", "w").write(json.dumps(index))
    open(f"{directory}/oci-layout", "w").write('{"imageLayoutVersion": "1.0.0"}')


def listing():
    def escaped(data):
        return "".join(chr(byte) if 0x20 < byte < 0x7F and byte != 0x5C else f"\\x{byte:02x}" for byte in data)
    facts = {}
    with tarfile.open(fileobj=sys.stdin.buffer, mode="r|", errors="surrogateescape") as tar:
        for info in tar:
            path = "/" + os.fsencode(info.name).decode("latin-1").strip("/")
            kind, size, content = "?", "-", "-"
            if info.islnk():
                facts[path] = facts["/" + os.fsencode(info.linkname).decode("latin-1").strip("/")]
                continue
            if info.isreg():
                hasher, stream = hashlib.sha256(), tar.extractfile(info)
                while piece := stream.read(1 << 20):
                    hasher.update(piece)
                kind, size, content = "f", info.size, hasher.hexdigest()
            elif info.isdir(): kind = "d"
            elif info.issym(): kind, content = "l", escaped(os.fsencode(info.linkname))
            elif info.ischr(): kind, size = "c", f"{info.devmajor}:{info.devminor}"
            elif info.isblk(): kind, size = "b", f"{info.devmajor}:{info.devminor}"
            elif info.isfifo(): kind = "p"
            attributes = [(key[13:], os.fsencode(value)) for key, value in sorted(info.pax_headers.items()) if key.startswith("SCHILY.xattr.")]
            digest = hashlib.sha256(b"".join(f"{key} {len(value)} ".encode() + value for key, value in attributes)).hexdigest()
            facts[path] = f"{kind} {info.mode & 0o7777:o} {info.uid} {info.gid} {size} {content} {digest if attributes else '-'}"
    for path, fact in facts.items():
        print(f"{fact} {escaped(path.encode('latin-1'))}")


globals()[sys.argv[1]](*sys.argv[2:])
