import CZlib
package import FarmModel
import Glibc
package import SingularityImage
import SystemIO
import Zstandard

/// From layers to a SIF, without extracting a file and without root.
package struct ImageAssembler: Sendable {
    /// What was assembled.
    package struct Report: Sendable {
        package var size: Int64
        package var partition: SingularityImage.Partition
        package var contentBytes: Int64
        /// What package managers left word of; empty when no list was wanted.
        package var survey: PackageSurvey
        /// Its files, without those that every image gets; empty when no list was wanted.
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

    /// Who follows the work; each may end it by throwing.
    package struct Watch {
        /// Called with every file of the image before it is written; `nil` where nobody wants them.
        package var inspect: (([ImageFile]) throws -> Void)?
        /// Called with the share done, 0 to 1.
        package var progress: (Double) throws -> Void
        /// Called with the end of what will not change any more, but for the head and the super block of the file system behind it.
        package var settled: (Int64) throws -> Void

        package init(
            inspect: (([ImageFile]) throws -> Void)? = nil, progress: @escaping (Double) throws -> Void = { _ in },
            settled: @escaping (Int64) throws -> Void = { _ in }
        ) {
            self.inspect = inspect
            self.progress = progress
            self.settled = settled
        }
    }

    private let architecture: SingularityImage.Architecture
    private let format: ImageFormat
    private let jobs: Int

    /// - Parameters:
    ///   - machine: as the kernel names it.
    ///   - jobs: compressing threads; the bytes do not depend on it.
    /// - Throws: `image.architecture` for a machine that SIF does not know, `image.writer`, `image.format`.
    package init(machine: String, format: ImageFormat, jobs: Int) throws {
        guard let architecture = SingularityImage.Architecture(machine: machine) else {
            throw FarmError("image.architecture", .invalid, "there are no images for \"\(machine)\"")
        }
        let current = ImageFormat.currentWriter
        guard format.writer == current else {
            throw FarmError(
                "image.writer", .unavailable, "the plan wants image writer \(format.writer), this worker has \(current)",
                hint: format.writer > current ? "upgrade the worker" : "submit the recipe again")
        }
        let levels = format.compression == .zstd ? 1...22 : 1...9
        guard levels.contains(format.level), format.blockSize.nonzeroBitCount == 1,
            (12...20).contains(format.blockSize.trailingZeroBitCount)
        else {
            throw FarmError(
                "image.format", .invalid,
                "\(format.compression.rawValue) of level \(format.level) in blocks of \(format.blockSize) cannot be written",
                hint: "levels are \(levels.lowerBound) to \(levels.upperBound), blocks a power of two from 4096 to 1048576")
        }
        guard (1...1024).contains(jobs) else {
            throw FarmError("image.jobs", .invalid, "\(jobs) threads cannot pack an image", hint: "1 to 1024")
        }
        self.architecture = architecture
        self.format = format
        self.jobs = jobs
    }

    /// What decides an image's bytes beside its layers: the version of this writer, and those of the compressors that are part of it.
    package static var writer: String {
        "\(ImageFormat.currentWriter) zstd-\(Zstandard.libraryVersion) zlib-\(String(cString: zlibVersion()))"
    }

    /// Merges an image's layers and writes the SIF. Blocks the calling thread.
    ///
    /// - Parameter lists: whether the report lists packages and files, for which each file is hashed.
    /// - Throws: `tar.invalid` and `layer.…` for what is wrong with a layer; the output is then no image.
    package func assemble(
        _ image: LayeredImage, to output: String, papers: ImagePapers = ImagePapers(), watch: Watch = Watch(), lists: Bool = true
    ) throws -> Report {
        var tree = try EntryTree(merging: image.layers)
        let contents = LayerContents(layers: image.layers)
        var survey = PackageSurvey()
        if lists { try survey.look(at: tree) { try contents.head(of: $0, $0.size) } }
        try watch.inspect?(
            tree.files().map { path, content in
                ImageFile(path: path, size: content.size) { try contents.head(of: content, Int64($0)) }
            })
        let papers = complete(papers, image.configuration)
        let summary = ImageAssembler.summarise(tree.root)
        try SingularityDirectory.add(to: &tree, configuration: image.configuration, papers: papers)
        let file = try OpenFile(output, flags: O_RDWR | O_CREAT | O_TRUNC)
        defer { file.close() }
        let start = SingularityImage.partitionStart
        let total = Double(max(summary.content, 1))
        let written = try SquashfsWriter.write(
            tree, contents: contents, to: file, offset: start, format: format, modified: summary.newest, jobs: jobs,
            watch: .init(digests: lists) { content, settled in
                try watch.progress(min(1, Double(content) / total))
                try watch.settled(start + settled)
            })
        let partition = SingularityImage.Partition(offset: start, size: written.size)
        let inspection = try SingularityDirectory.inspection(
            of: tree, contents, labels: image.configuration.labels(papers.labels), definition: papers.definition)
        let size = try describe(file, partition, image.configuration, papers, inspection, created: summary.newest)
        return Report(
            size: size, partition: partition, contentBytes: summary.content, survey: survey,
            listing: lists ? ImageListing(tree, digests: written.digests) : ImageListing())
    }

    private func complete(_ papers: ImagePapers, _ configuration: ImageConfiguration) -> ImagePapers {
        var papers = papers
        papers.labels["org.sciferry.image-writer"] = ImageAssembler.writer
        papers.files.append(.init(name: "oci-config.json", bytes: configuration.bytes))
        return papers
    }

    /// Writes the objects behind the partition, and then the head.
    private func describe(
        _ file: OpenFile, _ partition: SingularityImage.Partition, _ configuration: ImageConfiguration, _ papers: ImagePapers,
        _ inspection: [UInt8], created: Int64
    ) throws -> Int64 {
        var head = SingularityImage.Head(
            architecture: architecture, identifier: try identifier(configuration, papers), created: created)
        let root = SingularityImage.Descriptor(
            type: .partition, size: partition.size, created: created, name: "rootfs.squashfs",
            extra: SingularityImage.partitionExtra(architecture))
        _ = try head.append(root)
        var objects: [(SingularityImage.DataType, String, [UInt8], [UInt8])] = [
            (.genericJSON, "inspect-metadata.json", inspection, []), (.genericJSON, "oci-config.json", configuration.bytes, []),
            (.labels, "labels.json", try CanonicalJSON.encode(configuration.labels(papers.labels)), []),
        ]
        if let definition = papers.definition { objects.insert((.definitionFile, "definition", Array(definition.utf8), []), at: 0) }
        if let materials = papers.materials {
            objects.append((.billOfMaterials, "sbom.spdx.json", materials, SingularityImage.materialsExtra))
        }
        for (type, name, bytes, extra) in objects {
            let placed = try head.append(
                SingularityImage.Descriptor(type: type, size: Int64(bytes.count), created: created, name: name, extra: extra))
            try file.write(bytes, at: placed.offset)
        }
        try SingularityFile(file, head).writeHead()
        return head.end
    }

    /// From everything that decides the image, so that equal images have the same and others have not: a UUID of version 8 (RFC 9562).
    private func identifier(_ configuration: ImageConfiguration, _ papers: ImagePapers) throws -> [UInt8] {
        var hasher = Digest.Hasher()
        for part in [
            Array(ImageAssembler.writer.utf8), try CanonicalJSON.encode(format), configuration.bytes,
            try CanonicalJSON.encode(papers.labels), Array((papers.definition ?? "").utf8), papers.materials ?? [],
        ] + papers.files.flatMap({ [Array($0.name.utf8), $0.bytes] }) {
            hasher.update(Array("\(part.count) ".utf8) + part)
        }
        var bytes = Array(hasher.finish().bytes.prefix(16))
        bytes[6] = bytes[6] & 0x0F | 0x80
        bytes[8] = bytes[8] & 0x3F | 0x80
        return bytes
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
}
