import FarmModel
import Glibc
import ProcessRunner
import Support
import SystemIO

/// A container engine beside the machine's own, which stands for that of another machine: it shares no layer with the first. Its steps
/// reach nothing but themselves.
final class TestEngine: Sendable {
    let address: String
    private let child: Child
    private let root: String
    /// Of its own: one that is told to have none takes the first engine's away.
    private let bridge: String

    /// Whether this machine can have a second engine.
    static var isPossible: Bool { geteuid() == 0 && ProcessRunner.find("dockerd") != nil && ProcessRunner.find("ip") != nil }

    /// Whether what it keeps lies on a file system of its own.
    private let hasDisk: Bool

    /// - Parameter diskGiB: of a file system of its own for what it keeps.
    init(diskGiB: Int? = nil) async throws {
        root = "/tmp/sciferry-engine-\(getpid())-\(Nonce.hex(bytes: 4))"
        try Disk.makeDirectory("\(root)/data")
        hasDisk = diskGiB != nil
        if let diskGiB {
            let script = "truncate -s \(diskGiB)G \"$1/disk\"; mkfs.ext4 -q \"$1/disk\"; mount -o loop \"$1/disk\" \"$1/data\""
            try await ProcessRunner.require(Command("sh", ["-ec", script, "-", root], deadlineSeconds: 60))
        }
        address = "unix://\(root)/socket"
        bridge = "sfb\(Nonce.hex(bytes: 4))"
        for words in [
            ["link", "add", bridge, "type", "bridge"], ["addr", "add", "198.51.100.129/28", "dev", bridge], ["link", "set", bridge, "up"],
        ] {
            try await ProcessRunner.require(Command("ip", words))
        }
        let program = ProcessRunner.find("dockerd") ?? "dockerd"
        child = try Child(
            program,
            [
                "--data-root", "\(root)/data", "--exec-root", "\(root)/run", "--pidfile", "\(root)/pid", "-H", address, "--bridge", bridge,
                "--iptables=false", "--ip-forward=false", "--ip-masq=false",
            ], log: "\(root)/log")
        for _ in 0..<150 {
            let seen = try await ProcessRunner.run(Command("/usr/bin/docker", ["-H", address, "version"], deadlineSeconds: 20))
            if seen.succeeded { return }
            try await Task.sleep(for: .milliseconds(200))
        }
        throw FarmError(
            "test.engine", .unavailable,
            "no second engine answers: \((try? Disk.read("\(root)/log")).map { String(decoding: $0, as: UTF8.self) } ?? "")")
    }

    deinit {
        // It ends its containers and the process that serves it first.
        child.kill(SIGTERM)
        _ = child.wait()
        _ = try? Child("/usr/sbin/ip", ["link", "del", bridge], log: "/dev/null").wait()
        if hasDisk { _ = try? Child("/usr/bin/umount", ["-l", "\(root)/data"], log: "/dev/null").wait() }
        try? Disk.remove(root)
    }

    /// Bytes that are free where it keeps what it builds.
    var freeBytes: Int64 { (try? Disk.freeBytes(at: "\(root)/data")) ?? 0 }
}
