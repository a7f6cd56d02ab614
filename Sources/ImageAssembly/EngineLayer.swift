import FarmModel
import Foundation
import Glibc
import Synchronization
import SystemIO

/// A layer in a Docker engine's overlay2 store, read as the tar archive that the engine would write of it and without copying it:
/// the engine keeps the archive's headers (vbatts/tar-split, `tar/storage/entry.go`), the contents lie in the layer's directory.
final class EngineLayer: LayerArchive {
    let name: String
    /// Not known before all headers were read.
    var size: Int64 { 1 << 62 }

    private struct Extent {
        var offset: Int64
        var size: Int64
        var path: [UInt8]
        /// Its CRC-64, as the engine has noted it.
        var check: [UInt8]?

        /// Whether a file has the length and the bytes that the engine has noted.
        func isContent(of file: OpenFile) throws -> Bool {
            guard try file.size() == size else { return false }
            guard let check else { return true }
            var found = ContentCheck()
            try file.readAll(size: size) { found.update($0) }
            return found.text == check
        }
    }

    private struct State {
        var records: RecordReader
        /// Headers that were read and may be asked for, in order.
        var window: [(offset: Int64, bytes: [UInt8])] = []
        var extents: [Extent] = []
        /// Where the next record belongs.
        var end: Int64 = 0
        var open: (extent: Int, file: OpenFile)?
    }

    private let directory: OpenFile
    private let below: [String]
    // Touched by whoever holds the lock only; what unpacks is no value that a Mutex could own.
    private let lock = Mutex(())
    private nonisolated(unsafe) var state: State

    /// - Parameters:
    ///   - headers: the engine's `tar-split.json.gz`.
    ///   - directory: the layer's `diff`.
    ///   - below: those of the layers that it was written on, the nearest first.
    init(name: String, headers: String, directory: String, below: [String] = []) throws {
        self.name = name
        self.below = below
        self.directory = try OpenFile(directory, flags: O_RDONLY | O_DIRECTORY)
        // Whether this kernel opens below a directory is found out now, while there is another way.
        do { try OpenFile(Array(".".utf8), beneath: self.directory).close() } catch {
            throw FarmError("image.engine", .unavailable, "this kernel has no openat2: \(error)")
        }
        state = State(records: try RecordReader(headers))
    }

    func read(at offset: Int64, into buffer: UnsafeMutableRawBufferPointer) throws -> Int {
        try lock.withLock { _ in
            var done = 0
            while done < buffer.count {
                let rest = UnsafeMutableRawBufferPointer(rebasing: buffer[done...])
                let got = try step(offset + Int64(done), rest)
                if got == 0 { break }
                done += got
            }
            return done
        }
    }

    /// Fills from one record; 0 at the end of the archive.
    private func step(_ offset: Int64, _ buffer: UnsafeMutableRawBufferPointer) throws -> Int {
        while offset >= state.end {
            guard try advance(keepFrom: offset) else { return 0 }
        }
        if let index = extent(at: offset) {
            let extent = state.extents[index]
            if state.open?.extent != index { state.open = (index, try open(extent)) }
            let count = Int(min(Int64(buffer.count), extent.offset + extent.size - offset))
            guard let file = state.open?.file,
                try file.read(at: offset - extent.offset, into: UnsafeMutableRawBufferPointer(rebasing: buffer[..<count])) == count
            else { throw damaged(extent, "a shorter") }
            return count
        }
        guard let part = state.window.first(where: { $0.offset <= offset && offset < $0.offset + Int64($0.bytes.count) }) else {
            throw FarmError("layer.order", .fault, "the headers of \(name) are asked for a second time")
        }
        let start = Int(offset - part.offset)
        let count = min(buffer.count, part.bytes.count - start)
        part.bytes.withUnsafeBytes { buffer.copyMemory(from: UnsafeRawBufferPointer(rebasing: $0[start..<start + count])) }
        return count
    }

    private func damaged(_ extent: Extent, _ what: String) -> FarmError {
        FarmError(
            "layer.short", .corrupt,
            "the engine's store is damaged: \(name) has \(what) \"\(ImageListing.escaped(extent.path))\" than it should",
            hint: "remove the image from the engine, and what its builder keeps (docker builder prune), and build it again")
    }

    /// A file's content, which is not always in the layer's own directory: where two builds wrote layers with equal archives, the engine keeps
    /// one of them and compares what was written upon the other with it. Files that only differ in fractions of a second are then in the
    /// archive of the upper layer, and in the directory of the lower.
    private func open(_ extent: Extent) throws -> OpenFile {
        do { return try OpenFile(extent.path, beneath: directory) } catch let error as FarmError where error.category == .notFound {
            for path in below {
                let layer = try OpenFile(path, flags: O_RDONLY | O_DIRECTORY)
                guard let file = try? OpenFile(extent.path, beneath: layer) else { continue }
                guard try extent.isContent(of: file) else { throw damaged(extent, "another") }
                return file
            }
            throw error
        }
    }

    /// Reads the next record; false when there is none.
    private func advance(keepFrom offset: Int64) throws -> Bool {
        guard let record = try state.records.next() else { return false }
        switch record {
        case .segment(let bytes):
            state.window.removeAll { $0.offset + Int64($0.bytes.count) <= offset }
            state.window.append((state.end, bytes))
            state.end += Int64(bytes.count)
        case .file(let path, let size, let check):
            // The archive's names may begin with what the directory does not need.
            let parts = path.split(separator: UInt8(ascii: "/")).filter { !$0.elementsEqual([UInt8(ascii: ".")]) }
            if size > 0 {
                let path = Array(parts.joined(separator: [UInt8(ascii: "/")]))
                state.extents.append(Extent(offset: state.end, size: size, path: path, check: check))
            }
            state.end += size
        }
        return true
    }

    /// The file whose content covers an offset.
    private func extent(at offset: Int64) -> Int? {
        var (low, high) = (0, state.extents.count)
        while low < high {
            let middle = (low + high) / 2
            if state.extents[middle].offset <= offset { low = middle + 1 } else { high = middle }
        }
        guard low > 0, offset < state.extents[low - 1].offset + state.extents[low - 1].size else { return nil }
        return low - 1
    }
}

extension LayeredImage {
    /// Reads an image where a Docker engine with the overlay2 driver keeps it. Blocks.
    ///
    /// - Parameters:
    ///   - root: the engine's directory, as `docker info` tells it.
    ///   - identifier: the image's, as `docker image inspect` tells it.
    /// - Throws: `image.engine` where the store cannot be read: another driver, another machine, or not root.
    package static func engine(root: String, identifier: String) throws -> LayeredImage {
        guard geteuid() == 0 else {
            throw FarmError("image.engine", .unavailable, "the engine's layers cannot be read where they are: only root may")
        }
        guard let image = Digest(identifier) else {
            throw FarmError("image.engine", .invalid, "the engine calls an image \"\(identifier.printable())\"")
        }
        do {
            let store = "\(root)/image/overlay2"
            let document = try Disk.read("\(store)/imagedb/content/sha256/\(image.hex)", limit: Manifest.longest)
            guard Digest(hashing: document) == image else {
                throw FarmError("image.engine", .corrupt, "the engine's configuration of \(image.short) is damaged")
            }
            let configuration = try ImageConfiguration(document, source: "the engine's configuration of \(image.short)")
            var chain: Digest?
            let layers = try configuration.diffIDs.map { diffID in
                // A chain's name is made of the names of its layers (OCI image-spec, "Layer ChainID").
                chain = chain.map { Digest(hashing: "sha256:\($0.hex) sha256:\(diffID.hex)") } ?? diffID
                let place = "\(store)/layerdb/sha256/\(chain?.hex ?? "")"
                let cache = String(decoding: try Disk.read("\(place)/cache-id", limit: 4096), as: UTF8.self)
                guard cache.utf8.allSatisfy(\.isAlphanumeric) else {
                    throw FarmError("image.engine", .corrupt, "\(place)/cache-id is damaged")
                }
                let layer = "\(root)/overlay2/\(cache)"
                return try EngineLayer(
                    name: "sha256:\(diffID.hex)", headers: "\(place)/tar-split.json.gz", directory: "\(layer)/diff",
                    below: try below("\(layer)/lower", store: "\(root)/overlay2"))
            }
            return LayeredImage(configuration: configuration, layers: layers)
        } catch let error as FarmError where error.category == .notFound || error.category == .denied {
            throw FarmError("image.engine", .unavailable, "the engine's layers cannot be read where they are: \(error.message)")
        }
    }

    /// The directories that overlay2 puts below a layer: its file `lower` names them by links in the driver's directory.
    private static func below(_ path: String, store: String) throws -> [String] {
        guard Disk.exists(path) else { return [] }
        let names = String(decoding: try Disk.read(path, limit: 1 << 16), as: UTF8.self).split(separator: ":")
        return try names.map { name in
            guard name.hasPrefix("l/"), name.dropFirst(2).utf8.allSatisfy(\.isAlphanumeric) else {
                throw FarmError("image.engine", .corrupt, "\(path) is damaged")
            }
            return "\(store)/\(name)"
        }
    }
}
