package import FarmModel
package import SystemIO

extension PackIndex {
    /// The canonical bytes of the index of some packs, each listed once.
    package static func bytes(of listings: [Listing]) throws -> [UInt8] {
        let listings = listings.sorted { $0.pack < $1.pack }
        var entries: [Entry] = []
        var packs: [PackRecord] = []
        for (number, listing) in listings.enumerated() {
            packs.append(PackRecord(pack: listing.pack, size: Pack.size(of: listing.entries), chunks: listing.entries.count))
            entries += listing.entries.map { Entry(key: ChunkKey($0.digest), pack: number, $0) }
        }
        entries.sort()
        var memory = [UInt8](repeating: 0, count: Layout(packs: packs.count, chunks: entries.count).size)
        var writer = Writer(packs: packs)
        try writer.add(entries) { memory.replaceSubrange($1..<$1 + $0.count, with: $0) }
        try writer.finish { memory.replaceSubrange($1..<$1 + $0.count, with: $0) }
        return memory
    }

    /// One index of what several say, in memory.
    ///
    /// - Parameter wanted: the packs that it is to list; `nil` for all.
    package static func merged(_ indexes: [PackIndex], only wanted: Set<Digest>? = nil) throws -> [UInt8] {
        var merge = Merge(indexes, wanted)
        var memory = [UInt8](repeating: 0, count: merge.layout.size)
        try merge.run { memory.replaceSubrange($1..<$1 + $0.count, with: $0) }
        return memory
    }

    /// One index of what several say, in a file, with bounded memory.
    package static func merge(_ indexes: [PackIndex], only wanted: Set<Digest>? = nil, into file: OpenFile) throws {
        var merge = Merge(indexes, wanted)
        try merge.run { try file.write($0, at: Int64($1)) }
    }

    /// Takes bytes and their place in the object.
    private typealias Sink = (_ bytes: [UInt8], _ offset: Int) throws -> Void

    /// Lays an index out, entry by entry.
    private struct Writer {
        private let packs: [PackRecord]
        private let layout: Layout
        private var ends: [Int]
        private var written = 0
        private var buffer: [UInt8] = []

        init(packs: [PackRecord]) {
            self.packs = packs
            layout = Layout(packs: packs.count, chunks: packs.reduce(0) { $0 + $1.chunks })
            ends = [Int](repeating: 0, count: 1 << layout.bits)
        }

        /// Entries behind those that were there, in ascending order.
        mutating func add(_ entries: [Entry], _ sink: Sink) throws {
            buffer.removeAll(keepingCapacity: true)
            buffer.reserveCapacity(entries.count * Layout.entrySize)
            for entry in entries {
                entry.write(to: &buffer)
                ends[layout.bits == 0 ? 0 : Int(entry.key.high >> UInt64(64 - layout.bits))] += 1
            }
            try sink(buffer, layout.bytes(of: written..<written + entries.count).lowerBound)
            written += entries.count
        }

        /// Writes what stands before the entries.
        mutating func finish(_ sink: Sink) throws {
            precondition(written == layout.chunks, "an index lists what its packs hold")
            var head = PackIndex.magic
            head.reserveCapacity(layout.entriesStart)
            head.append(number: layout.packs, bytes: 4)
            head.append(number: layout.chunks, bytes: 4)
            for pack in packs { pack.write(to: &head) }
            var sum = 0
            for count in ends {
                sum += count
                head.append(number: sum, bytes: 4)
            }
            try sink(head, 0)
        }
    }

    /// Goes through several indexes side by side, one range of keys after the other.
    private struct Merge {
        private var cursors: [Cursor] = []
        private let packs: [PackRecord]
        let layout: Layout
        /// Entries of one range of keys, in the mean.
        private static let share = 1 << 16

        init(_ indexes: [PackIndex], _ wanted: Set<Digest>?) {
            // Of a pack that several list, one tells.
            var owners: [Digest: Int] = [:]
            for (number, index) in indexes.enumerated() {
                for record in index.packs where wanted?.contains(record.pack) ?? true && owners[record.pack] == nil {
                    owners[record.pack] = number
                }
            }
            packs = indexes.enumerated().flatMap { number, index in index.packs.filter { owners[$0.pack] == number } }
                .sorted { $0.pack < $1.pack }
            let numbers = Dictionary(uniqueKeysWithValues: packs.enumerated().map { ($1.pack, UInt32($0)) })
            layout = Layout(packs: packs.count, chunks: packs.reduce(0) { $0 + $1.chunks })
            for (number, index) in indexes.enumerated() where index.packs.contains(where: { owners[$0.pack] == number }) {
                cursors.append(Cursor(index, index.packs.map { owners[$0.pack] == number ? numbers[$0.pack] : nil }))
            }
        }

        mutating func run(_ sink: Sink) throws {
            var writer = Writer(packs: packs)
            let parts = max(1, layout.chunks / Merge.share)
            for part in 1...parts {
                let limit = part == parts ? nil : UInt64.max / UInt64(parts) * UInt64(part)
                var entries: [Entry] = []
                entries.reserveCapacity(Merge.share + Merge.share / 8)
                for number in cursors.indices { try cursors[number].take(below: limit, into: &entries) }
                entries.sort()
                try writer.add(entries, sink)
            }
            try writer.finish(sink)
        }
    }

    /// A place in an index that is gone through.
    private struct Cursor {
        private let index: PackIndex
        /// What the packs' numbers become; `nil` for those that are left out.
        private let numbers: [UInt32?]
        private var next = 0
        private var buffer: ArraySlice<Entry> = []

        init(_ index: PackIndex, _ numbers: [UInt32?]) { (self.index, self.numbers) = (index, numbers) }

        mutating func take(below limit: UInt64?, into entries: inout [Entry]) throws {
            while true {
                while let entry = buffer.first {
                    if let limit, entry.key.high >= limit { return }
                    buffer.removeFirst()
                    guard let number = numbers[Int(entry.pack)] else { continue }
                    var taken = entry
                    taken.pack = number
                    entries.append(taken)
                }
                guard next < index.count else { return }
                let more = try index.entries(from: next, most: 128)
                next += more.count
                buffer = more[...]
            }
        }
    }
}
