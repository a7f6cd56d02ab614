import Attestation
import FarmModel
import Glibc
import ProcessRunner
import SiteDelivery
import Support
import SystemIO

/// Sites and releases that no farm has made.
protocol SiteFixture {}

extension SiteFixture {
    func release(
        _ name: String = "tool", _ version: String = "1.0", description: String = "A tool.", image: String = "i", target: String = "x86_64",
        categories: [String] = []
    ) -> Release {
        let base = BaseImage(name: "b", digest: Digest(hashing: "b"), origin: .registry, size: 0, bootstrap: nil)
        let plan = Plan(
            name: name, version: version, architecture: "x86_64", target: target, base: base, dockerfile: "", context: [],
            commands: ["tool", "other"], commandPaths: [], description: description, categories: categories, licences: ["MIT"],
            suite: TestSuite(), diskBytes: 0)
        let result = BuildResult(
            image: Digest(hashing: image), imageSize: 1, manifest: IncomingObject(digest: Digest(hashing: "m"), size: 1), packs: [],
            records: [],
            chunkCount: 1, newChunkCount: 1, newBytes: 1, tests: [], testRuntime: "r", commands: ["found", "tool", "../x", "a b"],
            hostTarget: "t", phaseSeconds: [:])
        return Release(plan: plan, buildKey: Digest(hashing: "k"), result: result, builtOn: "w", publishedAt: Timestamp(seconds: 1))
    }

    func site(_ scratch: Scratch) throws -> Site {
        try Site.create("\(scratch.path)/s", SiteConfiguration(farm: "f", channel: "main", regions: [], root: try TrustedFarm().root))
    }

    /// Puts an image's directory there, without an image that anything could run.
    func place(_ image: String, in site: Site) throws {
        let directory = site.imageDirectory(Digest(hashing: image))
        try Disk.makeDirectory(directory)
        try Disk.replace("\(directory)/image.sif", with: Array(image.utf8))
    }

    /// An image with a shell and `probe`, `scripts/wrapper-probe`, that Apptainer and the launcher run.
    func makeProbeImage(at path: String, in scratch: Scratch) async throws {
        let tree = "\(scratch.path)/tree"
        let script = """
            set -e
            mkdir -p "$1/bin" "$1/dev" "$1/proc" "$1/sys" "$1/tmp" "$1/run" "$1/var/tmp" "$1/var/lib" "$1/etc" "$1/root" "$1/home" "$1/srv" \
                "$1/opt/probe/bin" "$1/data" "$1/usr/share/applications" "$1/.singularity.d/env" "$1/.singularity.d/libs"
            cp /bin/busybox "$1/bin/busybox"
            for name in $(busybox --list); do [ -e "$1/bin/$name" ] || ln -s busybox "$1/bin/$name"; done
            echo own >"$1/data/own"
            printf 'root:x:0:0:root:/root:/bin/sh\\n' >"$1/etc/passwd"
            printf 'root:x:0:\\n' >"$1/etc/group"
            touch "$1/etc/hosts"
            # As Debian's own: the one leads to a file that only the host has, the other to one that a service makes.
            ln -s /usr/share/zoneinfo/Etc/UTC "$1/etc/localtime"
            ln -s ../run/systemd/resolve/stub-resolv.conf "$1/etc/resolv.conf"
            cat >"$1/.singularity.d/env/10-docker2singularity.sh" <<'END'
            export PATH='/opt/probe/bin:/bin'
            export SUBJECTS_DIR='/opt/probe/subjects'
            export IMAGE_SAYS='a b "q" $x'
            export THEIRS_FIRST=image
            END
            printf 'LD_LIBRARY_PATH="${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}/.singularity.d/libs"\\nexport LD_LIBRARY_PATH\\n' \
                >"$1/.singularity.d/env/99-base.sh"
            cp "$2" "$1/opt/probe/bin/probe"
            chmod 755 "$1/opt/probe/bin/probe"
            mkdir -p "$(dirname "$3")"
            mksquashfs "$1" "$3" -all-root -noappend -quiet -no-progress >/dev/null
            rm -rf "$1"
            """
        try await ProcessRunner.require(
            Command("sh", ["-c", script, "-", tree, "\(Repository.root)/scripts/wrapper-probe", path], deadlineSeconds: 120))
    }
}
