package import FarmModel
import Glibc
import SystemIO

/// Indexes of a store at hand: in memory, or, where they are large, in a nameless file.
package struct IndexShelf: Sendable {
    package private(set) var indexes: [Digest: PackIndex] = [:]
    /// Those that could not be read whole, and why.
    package private(set) var damaged: [(name: Digest, error: FarmError)] = []
    private var spill: OpenFile?
    private var spilled: Int64 = 0

    private static let atOnce = 8
    /// Bytes of indexes that are held in memory; what is more lies in a file.
    private static let mostInMemory: Int64 = 16 << 20

    /// An empty one.
    package init() {}

    /// Reads indexes side by side; one that is not there any more is left out.
    ///
    /// - Parameter objects: names and sizes.
    package static func read(_ objects: [(name: Digest, size: Int64)], from reader: RegionReader) async throws -> IndexShelf {
        var shelf = IndexShelf()
        if objects.reduce(0, { $0 + $1.size }) > mostInMemory { shelf.spill = try OpenFile.scratch() }
        var waiting = objects[...]
        try await withThrowingTaskGroup(of: (Digest, Result<PackIndex, FarmError>)?.self) { tasks in
            var running = 0
            while running > 0 || !waiting.isEmpty {
                while running < atOnce, let object = waiting.popFirst() {
                    running += 1
                    tasks.addTask { try await index(object.name, object.size, reader).map { (object.name, $0) } }
                }
                let found = try await tasks.next()
                running -= 1
                guard let (name, result) = found ?? nil else { continue }
                switch result {
                case .success(let index): try await shelf.put(index, as: name)
                case .failure(let error): shelf.damaged.append((name, error))
                }
            }
        }
        return shelf
    }

    /// Puts one more there.
    package mutating func put(_ index: PackIndex, as name: Digest) async throws {
        guard let spill else { return indexes[name] = index }
        let place = spilled
        indexes[name] = try await Blocking.run { try index.moved(to: spill, at: place) }
        spilled += Int64(index.size)
    }

    /// An index; `nil` when it is not there.
    package static func index(
        _ name: Digest, _ size: Int64, _ reader: RegionReader
    ) async throws -> Result<PackIndex, FarmError>? {
        let key = PackIndex.key(name)
        do {
            return .success(try PackIndex(try await reader.content(name, key: key, size: size), source: key))
        } catch let error as FarmError where error.category == .notFound {
            return nil
        } catch let error as FarmError where error.category == .corrupt {
            return .failure(error)
        }
    }

    /// One index that says what several do.
    package static func merged(_ indexes: [PackIndex]) async throws -> PackIndex {
        try await Blocking.run {
            let source = "the index of all chunks"
            guard indexes.reduce(0, { $0 + Int64($1.size) }) > mostInMemory else {
                return try PackIndex(try PackIndex.merged(indexes), source: source)
            }
            let file = try OpenFile.scratch()
            try PackIndex.merge(indexes, into: file)
            return try PackIndex(file, source: source)
        }
    }
}
