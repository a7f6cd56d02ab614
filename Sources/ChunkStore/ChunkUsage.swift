package import FarmModel
import Synchronization

/// Who needs the chunks of an index: nobody, one user, or several. Takes 4 bytes a chunk.
///
/// Looking up blocks where the index lies in a file. One may be given to several threads.
///
/// Of a chunk that lies in several packs one copy is needed: whoever decides by this what stays must also see to it that readers look there.
package final class ChunkUsage: Sendable {
    /// What is needed of a pack.
    package struct Share: Sendable, Hashable {
        package var record: PackIndex.PackRecord
        package var chunks: Int
        /// As they are stored.
        package var bytes: Int64
    }

    private let index: PackIndex
    /// By the entries' numbers: 0, a user's number and 1, or `shared`.
    private let owners: Mutex<[UInt32]>
    private let avoided: Set<Digest>
    private static let shared = UInt32.max

    /// - Parameter avoided: packs whose copy of a chunk is needed only where no other pack has one.
    package init(_ index: PackIndex, avoiding avoided: Set<Digest> = []) {
        (self.index, self.avoided) = (index, avoided)
        owners = Mutex([UInt32](repeating: 0, count: index.count))
    }

    /// Notes that a user needs a chunk.
    ///
    /// - Parameter user: users are numbered from 0.
    /// - Returns: where it lies, the same place for everybody; `nil` when that is nowhere.
    package func use(_ chunk: Digest, by user: Int) throws -> ChunkLocation? {
        let places = try index.places(of: chunk)
        return owners.withLock { owners in
            let chosen =
                places.first { owners[$0.number] != 0 } ?? places.first { !avoided.contains($0.location.pack) } ?? places.first
            guard let place = chosen else { return nil }
            let mark = UInt32(user) + 1
            let before = owners[place.number]
            owners[place.number] = before == 0 || before == mark ? mark : ChunkUsage.shared
            return place.location
        }
    }

    /// Where a chunk lies that somebody needs.
    package func location(of chunk: Digest) throws -> ChunkLocation? {
        let places = try index.places(of: chunk)
        return owners.withLock { owners in places.first { owners[$0.number] != 0 }?.location }
    }

    /// What is needed of each pack, in ascending order of their names.
    package func shares() throws -> [Share] {
        let owners = owners.withLock(\.self)
        var shares = index.packs.map { Share(record: $0, chunks: 0, bytes: 0) }
        var number = 0
        try index.forEach { entry in
            if owners[number] != 0 {
                shares[Int(entry.pack)].chunks += 1
                shares[Int(entry.pack)].bytes += Int64(entry.storedSize)
            }
            number += 1
        }
        return shares
    }

    /// Stored bytes of chunks that one user has alone, by the users' numbers.
    package func own(users: Int) throws -> [Int64] {
        let owners = owners.withLock(\.self)
        var own = [Int64](repeating: 0, count: users)
        var number = 0
        try index.forEach { entry in
            let owner = owners[number]
            if owner != 0, owner != ChunkUsage.shared { own[Int(owner) - 1] += Int64(entry.storedSize) }
            number += 1
        }
        return own
    }
}
