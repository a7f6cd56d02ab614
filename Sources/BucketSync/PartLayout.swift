import FarmModel
import ObjectStorage
import Synchronization

/// How an object is cut into parts.
enum PartLayout {
    private static let mebibyte: Int64 = 1 << 20
    /// Sizes that tools use, in MiB.
    private static let usual: [Int64] = [
        5, 8, 16, 6, 7, 10, 12, 15, 20, 24, 25, 32, 48, 50, 64, 96, 100, 128, 192, 200, 250, 256, 500, 512, 1000, 1024, 5120,
    ]

    /// Bytes in a part of ours: as many as the source's own parts have, if that can be told, so that the tags will be alike; else 16 MiB, or so many
    /// that there are not too many parts (10,000).
    static func size(of object: ObjectInfo) -> Int64 {
        if case .parts(_, let count) = object.tag.map(ContentTag.init),
            let known = sizes(object.size, count).first(where: { $0 <= 512 * mebibyte })
        {
            return known
        }
        let least = (object.size + 8999) / 9000
        return max(16 * mebibyte, (least + mebibyte - 1) / mebibyte * mebibyte)
    }

    /// Part sizes that give an object of that size so many parts.
    static func sizes(_ size: Int64, _ count: Int) -> [Int64] {
        var candidates = usual.map { $0 * mebibyte }
        let least = (size + Int64(count) - 1) / Int64(max(1, count))
        candidates.append((least + mebibyte - 1) / mebibyte * mebibyte)
        var seen: Set<Int64> = []
        return candidates.filter { (size + $0 - 1) / $0 == Int64(count) && seen.insert($0).inserted }
    }

    static func candidates(size: Int64, count: Int) -> Candidates { Candidates(sizes: count == 1 ? [max(1, size)] : sizes(size, count)) }

    struct Candidates {
        var sizes: [Int64]

        /// Whether the object's content has that MD5 of MD5s for one of the sizes.
        func contains(_ digest: [UInt8], of object: ObjectInfo, in store: any ObjectStore) async throws -> Bool {
            if sizes.isEmpty { return false }
            let state = Mutex(sizes.map { PartedMD5(partSize: $0) })
            try await store.read(object.key, range: nil, tag: object.tag) { bytes in
                state.withLock { parted in for place in parted.indices { parted[place].update(bytes) } }
            }
            return state.withLock { parted in parted.contains { $0.finish() == digest } }
        }
    }
}

/// The MD5 of the MD5s of parts.
struct PartedMD5: Sendable {
    private let partSize: Int64
    private var rest: Int64
    private var part = MD5()
    private var digests: [UInt8] = []

    init(partSize: Int64) {
        self.partSize = partSize
        rest = partSize
    }

    mutating func update(_ bytes: UnsafeRawBufferPointer) {
        var place = 0
        while place < bytes.count {
            let count = Int(min(rest, Int64(bytes.count - place)))
            part.update(UnsafeRawBufferPointer(rebasing: bytes[place..<place + count]))
            place += count
            rest -= Int64(count)
            if rest == 0 {
                digests += part.finish()
                (part, rest) = (MD5(), partSize)
            }
        }
    }

    func finish() -> [UInt8] { MD5.of(rest == partSize && !digests.isEmpty ? digests : digests + part.finish()) }
}
