import FarmModel
import Glibc
import ProcessRunner
import SiteDelivery
import SystemIO
import TestSuites

/// Where the tests of one image run: a directory in /tmp, which every runtime can show, with what they write, the launcher and the mounts.
///
/// As root it is given to an ordinary user, as whom everything of the image runs then; the image itself is shown there by a mount, because
/// such a user could not enter the directories above it.
struct TestPlace: Sendable {
    let root: String
    /// Who runs the image's programs; `nil` for whoever runs this program.
    let user: TestUser?

    var work: String { "\(root)/work" }
    var temporary: String { "\(root)/tmp" }
    var mounts: String { "\(root)/mounts" }
    /// Below a directory of its own: the launcher reads what stands above its directory.
    var launcher: String { "\(root)/bin/sciferry-launch" }
    /// Holds `image.sif` and `launch`.
    var imageDirectory: String { "\(root)/image" }

    /// - Parameters:
    ///   - launch: what the launcher is to know of the image.
    init(root: String, image: String, launch: String, user: TestUser?) throws {
        self.root = root
        try Disk.remove(root)
        try Disk.makeNewDirectory(root, mode: 0o755)
        let shown = "\(root)/image/image.sif"
        try Disk.makeDirectory(Disk.parent(of: shown))
        try Disk.write("\(root)/image/launch", Array(launch.utf8))
        var user = user
        if user != nil {
            try Disk.write(shown, [])
            if mount(image, shown, nil, UInt(MS_BIND), nil) != 0 {
                user = nil
                try Disk.remove(shown)
            }
        }
        if user == nil { try Disk.link(shown, to: Disk.absolute(image)) }
        self.user = user
        try Disk.makeDirectory("\(root)/bin")
        try Disk.replace("\(root)/bin/sciferry-launch", with: Array(Launcher.script.utf8), mode: 0o755)
        for path in [
            "\(root)/work", "\(root)/mounts", "\(root)/tmp",
            "\(root)/tmp\(root.hasPrefix("/tmp/") ? String(root.dropFirst(4)) : root)/work",
        ] {
            try Disk.makeDirectory(path, mode: 0o700)
            try give(path)
        }
        // Those between are root's own else, and nobody else could go through.
        var path = "\(root)/tmp"
        for part in (root.hasPrefix("/tmp/") ? root.dropFirst(4) : root[...]).split(separator: "/") {
            path += "/\(part)"
            try give(path)
        }
    }

    /// Makes a file or directory the user's.
    func give(_ path: String) throws {
        guard let user else { return }
        // No link is followed: it would be one of the user's own.
        guard lchown(path, user.id, user.group) == 0 else { throw Disk.failure("give away", path) }
    }

    /// Writes a script that the image's programs can read.
    func write(_ name: String, _ text: String, mode: mode_t = 0o644) throws -> String {
        let path = "\(work)/\(name)"
        // With that user's rights, who may change what the name leads to at any time.
        try Disk.asUser(owner) {
            try Disk.remove(path)
            try Disk.replace(path, with: Array(text.utf8), mode: mode)
        }
        return path
    }

    /// Removes what `write` has written.
    func discard(_ path: String) { Disk.asUser(owner) { try? Disk.remove(path) } }

    private var owner: (id: UInt32, group: UInt32)? { user.map { ($0.id, $0.group) } }

    /// An empty working directory: what runs next must not find links that the image's programs have left. Nothing may run there meanwhile.
    func renew() throws {
        try Disk.remove(work)
        try Disk.makeNewDirectory(work, mode: 0o700)
        try give(work)
    }

    /// The words that become the user and then a program.
    func words(_ program: String, _ arguments: [String], processes: Int) -> [String] {
        // Nobody but root may go beyond what is allowed already.
        var allowed = rlimit()
        getrlimit(__rlimit_resource_t(__RLIMIT_NPROC.rawValue), &allowed)
        let limit = geteuid() == 0 ? UInt64(processes) : min(UInt64(processes), UInt64(allowed.rlim_max))
        let become = user.map { ["setpriv", "--reuid=\($0.id)", "--regid=\($0.group)", "--clear-groups", "--"] } ?? []
        return ["prlimit", "--nproc=\(limit)", "--"] + become + [program] + arguments
    }

    func remove() async {
        await Mounts.release(below: root)
        try? await Blocking.run { [root] in try Disk.remove(root) }
    }
}

/// An ordinary user of this machine, for what nobody should run as root.
struct TestUser: Sendable, Hashable {
    let name: String
    let id: uid_t
    let group: gid_t

    /// Users that may be there for it, the best first.
    private static let names = ["sciferry-test", "nobody"]

    /// Whom tests are given to when this program is root; `nil` otherwise, and where there is nobody.
    static var ordinary: TestUser? {
        guard geteuid() == 0 else { return nil }
        for name in names {
            var (entry, found): (passwd, UnsafeMutablePointer<passwd>?) = (passwd(), nil)
            var buffer = [CChar](repeating: 0, count: 16384)
            if getpwnam_r(name, &entry, &buffer, buffer.count, &found) == 0, found != nil, entry.pw_uid != 0 {
                return TestUser(name: name, id: entry.pw_uid, group: entry.pw_gid)
            }
        }
        return nil
    }
}

/// What a test left, looked at from outside. Links that lead elsewhere are not followed: the tests' user made them.
///
/// They are opened with that user's rights: whatever a name leads to in the moment when it is opened, it is theirs to read.
struct PlaceFiles: TestFiles {
    let work: String
    let temporary: String
    private let user: (id: UInt32, group: UInt32)?

    init(_ place: TestPlace) { (work, temporary, user) = (place.work, place.temporary, place.user.map { ($0.id, $0.group) }) }

    private func place(_ path: String) -> String {
        if !path.hasPrefix("/") { return "\(work)/\(path)" }
        if path == work || path.hasPrefix("\(work)/") { return path }
        return path.hasPrefix("/tmp/") ? "\(temporary)\(path.dropFirst(4))" : path
    }

    private func real(_ path: String) throws -> String? {
        guard let real = Disk.realPath(place(path)) else { return nil }
        guard let work = Disk.realPath(work), let temporary = Disk.realPath(temporary),
            [work, temporary].contains(where: { real == $0 || real.hasPrefix("\($0)/") })
        else { throw FarmError("test.outside", .invalid, "\(path) lies outside of the tests' working directory and of /tmp") }
        return real
    }

    func exists(_ path: String) throws -> Bool { try Disk.asUser(user) { try real(path) != nil } }

    func read(_ path: String) throws -> [UInt8] { try Disk.asUser(user) { try readFile(path) } }

    private func readFile(_ path: String) throws -> [UInt8] {
        guard let real = try real(path) else { throw FarmError("test.no-file", .notFound, "\(path) was not made") }
        // A pipe or device would never end.
        guard Disk.kind(real) == .file else { throw FarmError("test.no-file", .invalid, "\(path) is no file") }
        return try Disk.read(real, limit: 4 << 30)
    }

    func matching(_ pattern: String) throws -> [String] { try Disk.asUser(user) { try find(pattern) } }

    private func find(_ pattern: String) throws -> [String] {
        let isDeep = pattern.contains("**")
        let flags = isDeep ? FNM_PERIOD : FNM_PATHNAME | FNM_PERIOD
        var wanted = pattern.hasPrefix("\(work)/") ? String(pattern.dropFirst(work.count + 1)) : pattern
        while wanted.hasPrefix("./") { wanted.removeFirst(2) }
        var found: [String] = []
        var looked = 0
        func walk(_ directory: String, _ prefix: String) throws {
            for name in try Disk.list(directory).sorted() {
                looked += 1
                guard looked < 1_000_000 else { return }
                let path = prefix.isEmpty ? name : "\(prefix)/\(name)"
                if fnmatch(wanted, path, flags) == 0 { found.append(path) }
                if Disk.kind("\(directory)/\(name)") == .directory { try walk("\(directory)/\(name)", path) }
            }
        }
        try walk(work, "")
        return found
    }
}

/// Mounts that the launcher made.
package enum Mounts {
    /// Unmounts everything below a directory, lazily where it is busy.
    package static func release(below directory: String) async {
        guard let real = Disk.realPath(directory), let mounts = Disk.kernelText("/proc/self/mounts") else { return }
        for line in mounts.split(separator: "\n").reversed() {
            let fields = line.split(separator: " ")
            guard fields.count > 2, fields[1].hasPrefix("\(real)/") else { continue }
            if umount2(String(fields[1]), Int32(MNT_DETACH)) != 0 {
                _ = try? await ProcessRunner.run(Command("fusermount", ["-u", "-z", String(fields[1])], deadlineSeconds: 20))
            }
        }
    }
}
