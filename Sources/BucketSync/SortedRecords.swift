import FarmModel
import Glibc
import SystemIO

/// A key and what is said of it, both as bytes.
package struct Record: Sendable, Hashable {
    package var key: [UInt8]
    package var value: [UInt8]

    init(key: [UInt8], value: [UInt8]) {
        self.key = key
        self.value = value
    }
}

/// Brings records into the order of their keys' bytes with bounded memory: what does not fit goes to a nameless file, run by run.
/// Of records with one key the last that was added counts.
struct RecordSorter {
    private var bytes: [UInt8] = []
    private var starts: [Int] = []
    private var runs: [Range<Int64>] = []
    private var file: OpenFile?
    private var end: Int64 = 0
    private let limit: Int

    /// - Parameter limit: bytes of records to hold at once.
    init(limit: Int = 8 << 20) { self.limit = limit }

    mutating func add(_ record: Record) throws {
        if bytes.count + record.key.count + record.value.count + 8 > limit, !starts.isEmpty { try spill() }
        starts.append(bytes.count)
        RecordCoding.append(record, to: &bytes)
    }

    /// All that was added, in order; nothing can be added afterwards.
    mutating func finish() throws -> SortedRecords {
        if file != nil, !starts.isEmpty { try spill() }
        if let file { return SortedRecords(file: file, runs: runs, memory: []) }
        let sorted = sortedBytes()
        (bytes, starts) = ([], [])
        return SortedRecords(file: nil, runs: [], memory: sorted)
    }

    private mutating func spill() throws {
        let target = try file ?? OpenFile.scratch()
        file = target
        let sorted = sortedBytes()
        try target.write(sorted, at: end)
        runs.append(end..<end + Int64(sorted.count))
        end += Int64(sorted.count)
        bytes.removeAll(keepingCapacity: true)
        starts.removeAll(keepingCapacity: true)
    }

    private mutating func sortedBytes() -> [UInt8] {
        bytes.withUnsafeBytes { buffer in
            // By place where keys are equal, so that the last stays the last.
            starts.sort { left, right in
                let order = RecordCoding.compareKeys(buffer, left, right)
                return order == 0 ? left < right : order < 0
            }
        }
        var sorted: [UInt8] = []
        sorted.reserveCapacity(bytes.count)
        for start in starts { sorted += bytes[start..<start + RecordCoding.size(bytes, at: start)] }
        return sorted
    }
}

/// Records in order, which can be read as often as wanted.
struct SortedRecords: Sendable {
    static let none = SortedRecords(file: nil, runs: [], memory: [])

    fileprivate let file: OpenFile?
    fileprivate let runs: [Range<Int64>]
    fileprivate let memory: [UInt8]

    fileprivate init(file: OpenFile?, runs: [Range<Int64>], memory: [UInt8]) {
        self.file = file
        self.runs = runs
        self.memory = memory
    }

    /// One run that lies in a file already.
    init(file: OpenFile, run: Range<Int64>) { self.init(file: file, runs: [run], memory: []) }

    func reader() -> RecordReader { RecordReader(self) }
}

/// Goes through sorted records once, the last of each key.
struct RecordReader {
    private var streams: [RunStream]
    private var heads: [Record?]
    private var isPrimed = false

    fileprivate init(_ records: SortedRecords) {
        streams = records.runs.map { RunStream(records.file, $0, []) }
        if !records.memory.isEmpty { streams.append(RunStream(nil, 0..<0, records.memory)) }
        heads = Array(repeating: nil, count: streams.count)
    }

    /// The next record; `nil` at the end. Throws `sync.scratch` for a file that was tampered with.
    mutating func next() throws -> Record? {
        if !isPrimed {
            for place in streams.indices { heads[place] = try streams[place].next() }
            isPrimed = true
        }
        guard let least = heads.lazy.compactMap({ $0?.key }).min(by: { RecordCoding.precedes($0, $1) }) else { return nil }
        var found: Record?
        // Later runs were added later.
        for place in streams.indices {
            while heads[place]?.key == least {
                found = heads[place]
                heads[place] = try streams[place].next()
            }
        }
        return found
    }
}

/// Reads one run, 64 KiB at a time.
private struct RunStream {
    private let file: OpenFile?
    private var rest: Range<Int64>
    private var buffer: [UInt8]
    private var place = 0

    init(_ file: OpenFile?, _ rest: Range<Int64>, _ memory: [UInt8]) {
        self.file = file
        self.rest = rest
        buffer = memory
    }

    mutating func next() throws -> Record? {
        guard try fill(8) else { return nil }
        guard try fill(RecordCoding.size(buffer, at: place)) else { throw RecordCoding.damaged }
        let (record, size) = RecordCoding.read(buffer, at: place)
        place += size
        return record
    }

    /// Whether so many bytes are in the buffer; false only at the end.
    private mutating func fill(_ count: Int) throws -> Bool {
        if buffer.count - place >= count { return true }
        guard let file, !rest.isEmpty else {
            if buffer.count == place { return false }
            throw RecordCoding.damaged
        }
        buffer.removeSubrange(..<place)
        place = 0
        while buffer.count < count, !rest.isEmpty {
            let wanted = Int(min(Int64(max(64 << 10, count)), Int64(rest.count)))
            buffer += try file.read(at: rest.lowerBound, count: wanted)
            rest = rest.lowerBound + Int64(wanted)..<rest.upperBound
        }
        if buffer.count >= count { return true }
        if buffer.isEmpty { return false }
        throw RecordCoding.damaged
    }
}

/// A record as bytes: the sizes of key and value (4 bytes each, little end first), then both.
enum RecordCoding {
    static let damaged = FarmError("sync.scratch", .corrupt, "what was put aside on disk cannot be read again", hint: "run it again")

    static func append(_ record: Record, to bytes: inout [UInt8]) {
        for count in [record.key.count, record.value.count] { withUnsafeBytes(of: UInt32(count).littleEndian) { bytes += $0 } }
        bytes += record.key
        bytes += record.value
    }

    private static func counts(_ bytes: UnsafeRawBufferPointer, _ start: Int) -> (key: Int, value: Int) {
        (
            Int(UInt32(littleEndian: bytes.loadUnaligned(fromByteOffset: start, as: UInt32.self))),
            Int(UInt32(littleEndian: bytes.loadUnaligned(fromByteOffset: start + 4, as: UInt32.self)))
        )
    }

    static func size(_ bytes: [UInt8], at start: Int) -> Int {
        let found = bytes.withUnsafeBytes { counts($0, start) }
        return 8 + found.key + found.value
    }

    static func read(_ bytes: [UInt8], at start: Int) -> (record: Record, size: Int) {
        let found = bytes.withUnsafeBytes { counts($0, start) }
        let key = start + 8
        let value = key + found.key
        return (Record(key: Array(bytes[key..<value]), value: Array(bytes[value..<value + found.value])), 8 + found.key + found.value)
    }

    static func compareKeys(_ bytes: UnsafeRawBufferPointer, _ left: Int, _ right: Int) -> Int {
        let (one, other) = (counts(bytes, left).key, counts(bytes, right).key)
        return compare(
            UnsafeRawBufferPointer(rebasing: bytes[left + 8..<left + 8 + one]),
            UnsafeRawBufferPointer(rebasing: bytes[right + 8..<right + 8 + other]))
    }

    static func precedes(_ left: [UInt8], _ right: [UInt8]) -> Bool {
        left.withUnsafeBytes { left in right.withUnsafeBytes { compare(left, $0) < 0 } }
    }

    private static func compare(_ left: UnsafeRawBufferPointer, _ right: UnsafeRawBufferPointer) -> Int {
        guard let one = left.baseAddress, let other = right.baseAddress else { return left.count - right.count }
        let order = memcmp(one, other, min(left.count, right.count))
        return order == 0 ? left.count - right.count : Int(order)
    }
}
