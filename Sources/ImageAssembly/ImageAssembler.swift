package import FarmModel
import Foundation
import Glibc
package import SingularityImage
import SystemIO

/// From a `docker save` archive to a SIF, without extracting a file and without root.
package struct ImageAssembler: Sendable {
    /// Raised when the same input gives other bytes than before; part of every plan.
    package static let version = 1

    private struct ArchiveManifest: Decodable {
        var Config: String
        var Layers: [String]
    }

    private struct ImageConfiguration: Decodable {
        struct Run: Decodable {
            var Env: [String]?
            var Entrypoint: [String]?
            var Cmd: [String]?
            var Labels: [String: String]?
        }
        var config: Run?
    }

    /// What was assembled.
    package struct Report: Sendable {
        package var size: Int64
        package var partition: SingularityImage.Partition
        package var contentBytes: Int64
        /// What package managers left word of.
        package var survey: PackageSurvey
        /// Its files, without those that every image gets.
        package var listing: ImageListing
    }

    /// One file of an image.
    package struct ImageFile {
        /// From the image's root, with a leading slash.
        package var path: String
        package var size: Int64
        /// Its first bytes, at most so many.
        package var read: (_ count: Int) throws -> [UInt8]
    }

    private let architecture: SingularityImage.Architecture
    private let format: ImageFormat
    private let jobs: Int

    /// - Parameter machine: as the kernel names it; throws `image.architecture` for one that SIF does not know.
    package init(machine: String, format: ImageFormat, jobs: Int) throws {
        guard let architecture = SingularityImage.Architecture(machine: machine) else {
            throw FarmError("image.architecture", .invalid, "there are no images for \"\(machine)\"")
        }
        guard format.writer == ImageAssembler.version else {
            throw FarmError(
                "image.writer", .unavailable, "the plan wants image writer \(format.writer), this worker has \(ImageAssembler.version)",
                hint: "upgrade the worker")
        }
        self.architecture = architecture
        self.format = format
        self.jobs = jobs
    }

    /// Merges the archive's layers and writes the image. Blocks the calling thread.
    ///
    /// - Parameters:
    ///   - labels: added to the image's own.
    ///   - inspect: called with every file of the image before it is written; a thrown error stops the work.
    ///   - progress: called with the share done, 0 to 1; a thrown error stops the work.
    package func assemble(
        archive path: String, to output: String, labels: [String: String], inspect: ([ImageFile]) throws -> Void = { _ in },
        progress: (Double) throws -> Void
    ) throws -> Report {
        let archive = try OpenFile(path, flags: O_RDONLY)
        defer { archive.close() }
        let members = try index(archive)
        let (manifest, configuration) = try describe(archive, members)
        var tree = EntryTree()
        for layer in manifest.Layers {
            let member = try find(layer, in: members)
            tree.beginLayer()
            var reader = TarReader(archive, start: member.offset, size: member.size)
            while let entry = try reader.next() { try tree.apply(entry) }
        }
        var survey = PackageSurvey()
        try survey.look(at: tree) { content in
            guard case .archive(_, let offset, let size) = content else { return [] }
            return try archive.read(at: offset, count: Int(size))
        }
        try inspect(
            tree.files().map { path, content in
                ImageFile(path: path, size: content.size) { count in
                    switch content {
                    case .archive(_, let offset, let size): try archive.read(at: offset, count: Int(min(size, Int64(count))))
                    case .bytes(let bytes): Array(bytes.prefix(count))
                    case .none: []
                    }
                }
            })
        let listing = try ImageListing(tree) { content, body in
            guard case .archive(_, let offset, let size) = content else { return }
            for start in stride(from: 0, to: size, by: 4 << 20) {
                body(try archive.read(at: offset + start, count: Int(min(4 << 20, size - start))))
            }
        }
        try SingularityDirectory.add(to: &tree, configuration: runtime(configuration), labels: labels)
        let summary = ImageAssembler.summarise(tree.root)
        let image = try OpenFile(output, flags: O_RDWR | O_CREAT | O_TRUNC)
        defer { image.close() }
        let offset = ImageAssembler.aligned(Int64(SingularityImage.dataOffset))
        let total = max(summary.content, 1)
        let size = try SquashfsWriter.write(
            tree, archive: archive, to: image, offset: offset, format: format, modified: summary.newest, jobs: jobs
        ) { try progress(Double($0) / Double(total)) }
        try writeHead(image, offset: offset, size: size, created: summary.newest)
        try image.sync()
        return Report(
            size: offset + size, partition: SingularityImage.Partition(offset: offset, size: size),
            contentBytes: summary.content, survey: survey, listing: listing)
    }

    private func writeHead(_ image: OpenFile, offset: Int64, size: Int64, created: Int64) throws {
        // The identifier comes from the content, so equal content gives equal images.
        var hasher = Digest.Hasher()
        var position = offset
        while position < offset + size {
            let part = try image.read(at: position, count: Int(min(4 << 20, offset + size - position)))
            hasher.update(part)
            position += Int64(part.count)
        }
        let descriptor = SingularityImage.Descriptor(
            type: .partition, id: 1, offset: offset, size: size, name: "rootfs.squashfs",
            extra: SingularityImage.partitionExtra(architecture))
        let head = SingularityImage.head(
            architecture: architecture, identifier: Array(hasher.finish().bytes.prefix(16)), created: created,
            descriptors: [descriptor], end: offset + size)
        try image.write(head, at: 0)
    }

    private typealias Member = (offset: Int64, size: Int64)

    private func index(_ archive: OpenFile) throws -> [String: EntryKind] {
        var members: [String: EntryKind] = [:]
        var reader = TarReader(archive, start: 0, size: try archive.size())
        while let entry = try reader.next() { members[String(decoding: entry.path, as: UTF8.self)] = entry.kind }
        return members
    }

    /// A member's place; links between layers, which engines write for equal ones, are followed once.
    private func find(_ name: String, in members: [String: EntryKind]) throws -> Member {
        switch members[name] {
        case .file(let offset, let size): return (offset, size)
        case .symlink(let target):
            let parts = Disk.parent(of: name).split(separator: "/") + String(decoding: target, as: UTF8.self).split(separator: "/")
            var path: [Substring] = []
            for part in parts { if part == ".." { _ = path.popLast() } else if part != "." { path.append(part) } }
            if case .file(let offset, let size)? = members[path.joined(separator: "/")] { return (offset, size) }
        default: break
        }
        throw FarmError("image.archive", .corrupt, "the image archive has no \(name)")
    }

    private func describe(
        _ archive: OpenFile, _ members: [String: EntryKind]
    ) throws -> (ArchiveManifest, ImageConfiguration) {
        func read(_ name: String) throws -> [UInt8] {
            let member = try find(name, in: members)
            guard member.size <= 16 << 20 else { throw FarmError("image.archive", .corrupt, "\(name) is too long") }
            return try archive.read(at: member.offset, count: Int(member.size))
        }
        let manifests = try CanonicalJSON.decode([ArchiveManifest].self, from: try read("manifest.json"), source: "manifest.json")
        guard let manifest = manifests.first else { throw FarmError("image.archive", .corrupt, "the archive holds no image") }
        let configuration = try CanonicalJSON.decode(
            ImageConfiguration.self, from: try read(manifest.Config), source: manifest.Config)
        return (manifest, configuration)
    }

    private func runtime(_ configuration: ImageConfiguration) -> SingularityDirectory.Configuration {
        SingularityDirectory.Configuration(
            environment: configuration.config?.Env ?? [], entrypoint: configuration.config?.Entrypoint ?? [],
            command: configuration.config?.Cmd ?? [], labels: configuration.config?.Labels ?? [:])
    }

    private static func summarise(_ root: EntryTree.Node) -> (content: Int64, newest: Int64) {
        var content: Int64 = 0
        var newest: Int64 = 0
        var stack = [root]
        while let node = stack.popLast() {
            content += node.content.size
            newest = max(newest, node.entry.modified)
            stack += node.children.values
        }
        return (content, newest)
    }

    private static func aligned(_ offset: Int64) -> Int64 {
        let step = Int64(SingularityImage.partitionAlignment)
        return (offset + step - 1) / step * step
    }
}
