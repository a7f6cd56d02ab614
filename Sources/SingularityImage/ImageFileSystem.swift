import FarmModel
import Glibc
package import SystemIO

/// Where the file system lies in an image of any form that runtimes take: a SIF, or squashfs alone, as Singularity 2 wrote it with or
/// without a first line that names its program (apptainer `pkg/image/squashfs.go`).
package struct ImageFileSystem: Sendable {
    package let file: OpenFile
    package let partition: SingularityImage.Partition
    /// The SIF's objects; `nil` for squashfs alone.
    package let head: SingularityImage.Head?

    private static let squashfs = Array("hsqs".utf8)

    /// Opens an image; throws `file.absent`, `sif.invalid`. Errors name the file.
    package init(_ path: String) throws {
        if let start = try ImageFileSystem.bareStart(path) {
            file = try OpenFile(path, flags: O_RDONLY)
            partition = SingularityImage.Partition(offset: start, size: try file.size() - start)
            head = nil
            return
        }
        let image = try SingularityFile(path)
        file = image.file
        head = image.head
        partition = try SingularityFile.naming(path) { try SingularityImage.primaryPartition(of: image.head) }
    }

    /// Where squashfs begins in a file that holds nothing else; `nil` for every other file.
    private static func bareStart(_ path: String) throws -> Int64? {
        guard Disk.kind(Disk.realPath(path) ?? path) == .file else { return nil }
        let file = try OpenFile(path, flags: O_RDONLY)
        defer { file.close() }
        let first = try file.read(at: 0, count: Int(min(try file.size(), 2048)))
        if first.starts(with: squashfs) { return 0 }
        guard first.starts(with: "#!".utf8), let end = first.firstIndex(of: UInt8(ascii: "\n")),
            String(decoding: first[..<end], as: UTF8.self).hasSuffix("run-singularity"), first[(end + 1)...].starts(with: squashfs)
        else { return nil }
        return Int64(end + 1)
    }
}
