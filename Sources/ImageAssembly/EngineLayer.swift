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
    // Touched by whoever holds the lock only; what unpacks is no value that a Mutex could own.
    private let lock = Mutex(())
    private nonisolated(unsafe) var state: State

    /// - Parameters:
    ///   - headers: the engine's `tar-split.json.gz`.
    ///   - directory: the layer's `diff`.
    init(name: String, headers: String, directory: String) throws {
        self.name = name
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
            if state.open?.extent != index { state.open = (index, try OpenFile(extent.path, beneath: directory)) }
            let count = Int(min(Int64(buffer.count), extent.offset + extent.size - offset))
            guard let file = state.open?.file,
                try file.read(at: offset - extent.offset, into: UnsafeMutableRawBufferPointer(rebasing: buffer[..<count])) == count
            else {
                throw FarmError(
                    "layer.short", .corrupt,
                    "the engine's store is damaged: \(name) has a shorter \"\(ImageListing.escaped(extent.path))\" than it should")
            }
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

    /// Reads the next record; false when there is none.
    private func advance(keepFrom offset: Int64) throws -> Bool {
        guard let record = try state.records.next() else { return false }
        switch record {
        case .segment(let bytes):
            state.window.removeAll { $0.offset + Int64($0.bytes.count) <= offset }
            state.window.append((state.end, bytes))
            state.end += Int64(bytes.count)
        case .file(let path, let size):
            // The archive's names may begin with what the directory does not need.
            let parts = path.split(separator: UInt8(ascii: "/")).filter { !$0.elementsEqual([UInt8(ascii: ".")]) }
            if size > 0 {
                state.extents.append(Extent(offset: state.end, size: size, path: Array(parts.joined(separator: [UInt8(ascii: "/")]))))
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

/// What a line of the engine's headers says.
private enum HeaderRecord {
    /// Bytes of the archive: headers, and the padding of the entry before.
    case segment([UInt8])
    /// The content of a file follows, which is not here.
    case file(path: [UInt8], size: Int64)
}

/// Lines of JSON in a gzip file, unpacked as they are wanted.
private struct RecordReader {
    private let file: OpenFile
    private let stream: GzipStream
    private var position: Int64 = 0
    private var text: [UInt8] = []
    private var start = 0

    init(_ path: String) throws {
        file = try OpenFile(path, flags: O_RDONLY)
        stream = try GzipStream()
    }

    mutating func next() throws -> HeaderRecord? {
        while true {
            if let end = text[start...].firstIndex(of: UInt8(ascii: "\n")) {
                let line = text[start..<end]
                start = end + 1
                if line.isEmpty { continue }
                return try record(line)
            }
            text.removeFirst(start)
            start = 0
            var piece = [UInt8](repeating: 0, count: 1 << 16)
            let got = try piece.withUnsafeMutableBytes { try file.read(at: position, into: $0) }
            if got == 0 {
                guard stream.isComplete, text.isEmpty else { throw damaged() }
                return nil
            }
            position += Int64(got)
            try piece.withUnsafeBytes { bytes in
                try stream.feed(UnsafeRawBufferPointer(rebasing: bytes[..<got])) { text += $0 }
            }
            // A header with its extended headers is no longer than what a layer's entry may have.
            guard text.count <= 64 << 20 else { throw damaged() }
        }
    }

    private struct Line: Decodable {
        var type: Int
        var name: String?
        var name_raw: Data?
        var size: Int64?
        var payload: Data?
    }

    private func record(_ line: ArraySlice<UInt8>) throws -> HeaderRecord {
        guard let fields = RecordReader.plain(line) ?? (try? JSONDecoder().decode(Line.self, from: Data(line))) else { throw damaged() }
        switch fields.type {
        case 1:
            guard let size = Optional(fields.size ?? 0), (0...(1 << 50)).contains(size) else { throw damaged() }
            return .file(path: fields.name_raw.map(Array.init) ?? Array((fields.name ?? "").utf8), size: size)
        case 2: return .segment(Array(fields.payload ?? Data()))
        default: throw damaged()
        }
    }

    /// A line in the form that engines write, taken apart without a parser of JSON, which would take most of the time; `nil` for
    /// another form.
    private static func plain(_ line: ArraySlice<UInt8>) -> Line? {
        var result = Line(type: 0)
        guard !line.contains(UInt8(ascii: "\\")), line.first == UInt8(ascii: "{"), line.last == UInt8(ascii: "}") else { return nil }
        var rest = line.dropFirst().dropLast()
        while !rest.isEmpty {
            guard rest.first == UInt8(ascii: "\""), let close = rest.dropFirst().firstIndex(of: UInt8(ascii: "\"")),
                close + 1 < rest.endIndex, rest[close + 1] == UInt8(ascii: ":")
            else { return nil }
            let key = rest[(rest.startIndex + 1)..<close]
            rest = rest[(close + 2)...]
            let value: ArraySlice<UInt8>
            let isText = rest.first == UInt8(ascii: "\"")
            if isText {
                guard let end = rest.dropFirst().firstIndex(of: UInt8(ascii: "\"")) else { return nil }
                value = rest[(rest.startIndex + 1)..<end]
                rest = rest[(end + 1)...]
            } else {
                let end = rest.firstIndex(of: UInt8(ascii: ",")) ?? rest.endIndex
                value = rest[rest.startIndex..<end]
                rest = rest[end...]
            }
            if !rest.isEmpty {
                guard rest.first == UInt8(ascii: ",") else { return nil }
                rest = rest.dropFirst()
            }
            switch String(decoding: key, as: UTF8.self) {
            case "type": result.type = Int(String(decoding: value, as: UTF8.self)) ?? 0
            case "size": result.size = Int64(String(decoding: value, as: UTF8.self))
            case "name" where isText: result.name = String(decoding: value, as: UTF8.self)
            case "name_raw" where isText:
                guard let data = Data(base64Encoded: Data(value)) else { return nil }
                result.name_raw = data
            case "payload" where isText && result.type == 2:
                guard let data = Data(base64Encoded: Data(value)) else { return nil }
                result.payload = data
            default: break
            }
        }
        return result
    }

    private func damaged() -> FarmError {
        FarmError(
            "image.engine", .corrupt, "the engine's headers of a layer are unreadable: \(file.path)",
            hint: "remove the image from the engine and build it again")
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
                return try EngineLayer(
                    name: "sha256:\(diffID.hex)", headers: "\(place)/tar-split.json.gz", directory: "\(root)/overlay2/\(cache)/diff")
            }
            return LayeredImage(configuration: configuration, layers: layers)
        } catch let error as FarmError where error.category == .notFound || error.category == .denied {
            throw FarmError("image.engine", .unavailable, "the engine's layers cannot be read where they are: \(error.message)")
        }
    }
}
