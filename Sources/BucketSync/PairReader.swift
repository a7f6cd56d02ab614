import ObjectStorage

/// What source and destination have of one key, and what is remembered of it.
struct Pair: Sendable {
    /// The key with its rank before it.
    var place: [UInt8]
    var source: ObjectInfo?
    var destination: ObjectInfo?
    var known: Known?

    var rank: UInt8 { place[0] }
    var key: String { String(decoding: place.dropFirst(), as: UTF8.self) }

    /// As it is remembered, if it is.
    var knownRecord: Record? { known.map { Record(key: place, value: $0.value) } }

    var sign: SyncSign { source == nil ? .extra : destination == nil ? .lacking : .differs }
}

extension ObjectInfo {
    /// An empty `directory/`, by which programs show a directory in a bucket: where there are directories they come by themselves.
    func isMarker(for store: any ObjectStore) -> Bool { size == 0 && key.hasSuffix("/") && store is DirectoryStore }
}

/// Goes through two listings and the memory side by side.
struct PairReader {
    private var readers: [RecordReader]
    private var heads: [Record?] = [nil, nil, nil]
    private var isPrimed = false

    init(source: SortedRecords, destination: SortedRecords, known: SortedRecords) {
        readers = [source.reader(), destination.reader(), known.reader()]
    }

    /// The next key that one of the two has.
    mutating func next() throws -> Pair? {
        if !isPrimed {
            for place in readers.indices { heads[place] = try readers[place].next() }
            isPrimed = true
        }
        while true {
            guard let least = heads[..<2].lazy.compactMap({ $0?.key }).min(by: { RecordCoding.precedes($0, $1) }) else { return nil }
            while let head = heads[2], RecordCoding.precedes(head.key, least) { heads[2] = try readers[2].next() }
            var pair = Pair(place: least)
            if let head = heads[0], head.key == least {
                pair.source = try ObjectInfo(head)
                heads[0] = try readers[0].next()
            }
            if let head = heads[1], head.key == least {
                pair.destination = try ObjectInfo(head)
                heads[1] = try readers[1].next()
            }
            if let head = heads[2], head.key == least { pair.known = Known(head.value) }
            return pair
        }
    }
}
