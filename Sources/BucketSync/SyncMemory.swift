import FarmModel
import Foundation
import Glibc
import ObjectStorage
import Synchronization
import SystemIO

/// What one pair of source and destination keeps on this machine from run to run: which objects have one content although their tags do not
/// say so, since when the source lacks an object, and uploads in parts that were broken off.
///
/// Two files: `….known`, sorted records, replaced at the end of a complete run; `….journal`, lines of JSON that are written as things happen,
/// so that a killed run loses nothing that was done. A line that is half written is ignored.
package final class SyncMemory: Sendable {
    private struct State {
        var journal: OpenFile
        var end: Int64
        var fresh = RecordSorter()
        /// By the bytes of their keys: texts that look alike may be other objects.
        var uploads: [[UInt8]: PendingUpload]
    }

    private let knownPath: String
    private let journalPath: String
    private let lock: FileLock
    private let state: Mutex<State>
    /// What was remembered when the run began.
    let known: SortedRecords

    /// Where programs of one person remember: `$XDG_CACHE_HOME/sciferry/sync`, or below `~/.cache`.
    package static func standardDirectory(_ environment: [String: String]) -> String {
        func value(_ name: String) -> String? { environment[name].flatMap { $0.isEmpty ? nil : $0 } }
        return "\(value("XDG_CACHE_HOME") ?? "\(value("HOME") ?? "/tmp")/.cache")/sciferry/sync"
    }

    /// Opens what is remembered of a pair. Throws `home.locked` while another run has it.
    package init(directory: String, source: String, destination: String) throws {
        try Disk.makeDirectory(directory, mode: 0o700)
        let base = "\(directory)/\(Digest(hashing: "\(source)\u{0}\(destination)").hex.prefix(32))"
        (knownPath, journalPath) = ("\(base).known", "\(base).journal")
        lock = try FileLock(
            "\(base).lock", holder: "a run of \(source) to \(destination)",
            hint: "two runs between the same buckets would undo each other; wait for the other")
        var sorter = RecordSorter()
        if Disk.exists(knownPath) {
            let file = try OpenFile(knownPath, flags: O_RDONLY)
            var reader = SortedRecords(file: file, run: 0..<(try file.size())).reader()
            // What cannot be read is forgotten: then it is compared again.
            while let record = try? reader.next() { try sorter.add(record) }
        }
        var replay = SyncJournal()
        let journal = try OpenFile(journalPath, flags: O_RDWR | O_CREAT, mode: 0o600)
        let length = try journal.size()
        try journal.readAll(size: length) { block in try replay.read(block) { try sorter.add($0) } }
        known = try sorter.finish()
        state = Mutex(State(journal: journal, end: length, uploads: replay.uploads))
        if replay.isTorn { try state.withLock { try SyncMemory.append([UInt8(ascii: "\n")], &$0) } }
        // Runs that never come to their end must not make it longer and longer.
        if length > SyncMemory.longestJournal {
            let known = known
            try state.withLock { try compact(known, &$0) }
        }
    }

    /// Bytes of a journal that is made shorter when it is opened.
    private static let longestJournal: Int64 = 16 << 20

    /// Lets others have it.
    package func release() { lock.release() }

    /// Remembers something new.
    func remember(_ key: [UInt8], _ known: Known) throws {
        try state.withLock { state in
            let record = Record(key: key, value: known.value)
            try state.fresh.add(record)
            try SyncMemory.append(
                SyncJournal.line(.init(key: Data(key).base64EncodedString(), value: Data(record.value).base64EncodedString())), &state)
        }
    }

    /// Keeps something that was remembered before and still holds.
    func keep(_ record: Record) throws { try state.withLock { try $0.fresh.add(record) } }

    /// An upload of that key that an earlier run broke off.
    func upload(of key: String) -> PendingUpload? { state.withLock { $0.uploads[Array(key.utf8)] } }

    /// Uploads that were broken off and not taken up again.
    var uploads: [PendingUpload] { state.withLock { Array($0.uploads.values) } }

    func began(_ upload: PendingUpload) throws {
        try state.withLock { state in
            state.uploads[upload.place] = upload
            try SyncMemory.append(SyncJournal.line(.init(upload: upload)), &state)
        }
    }

    /// - Parameter md5: of the bytes that were read, which the part's tag need not be.
    func sent(_ part: UploadedPart, _ md5: [UInt8], of upload: PendingUpload) throws {
        try state.withLock { state in
            state.uploads[upload.place]?.add(part, md5)
            try SyncMemory.append(SyncJournal.line(.init(key: upload.key, part: part, md5: Data(md5).base64EncodedString())), &state)
        }
    }

    func ended(_ upload: PendingUpload) throws {
        try state.withLock { state in
            state.uploads[upload.place] = nil
            try SyncMemory.append(SyncJournal.line(.init(ended: upload.key)), &state)
        }
    }

    /// The run has looked at everything: what it did not keep is forgotten. Open uploads stay in the journal.
    func close() async throws {
        try await Blocking.run { [self] in
            try state.withLock { state in
                let records = try state.fresh.finish()
                state.fresh = RecordSorter()
                try compact(records, &state)
            }
        }
    }

    /// Writes what is known into its file; the journal keeps open uploads only.
    private func compact(_ records: SortedRecords, _ state: inout State) throws {
        var reader = records.reader()
        let temporary = "\(knownPath).\(Nonce.hex(bytes: 6))"
        let file = try OpenFile(temporary, flags: O_RDWR | O_CREAT | O_EXCL, mode: 0o600)
        do {
            var (bytes, end) = ([UInt8](), Int64(0))
            while let record = try reader.next() {
                RecordCoding.append(record, to: &bytes)
                if bytes.count > 1 << 20 {
                    try file.write(bytes, at: end)
                    end += Int64(bytes.count)
                    bytes.removeAll(keepingCapacity: true)
                }
            }
            try file.write(bytes, at: end)
            try file.sync()
            try Disk.rename(temporary, to: knownPath)
        } catch {
            unlink(temporary)
            throw error
        }
        try Disk.replace(journalPath, with: state.uploads.values.flatMap { SyncJournal.line(.init(upload: $0)) }, mode: 0o600)
        state.journal = try OpenFile(journalPath, flags: O_RDWR)
        state.end = try state.journal.size()
    }

    private static func append(_ line: [UInt8], _ state: inout State) throws {
        try state.journal.write(line, at: state.end)
        state.end += Int64(line.count)
    }
}

/// An upload in parts whose end has not come yet.
package struct PendingUpload: Codable, Sendable, Hashable {
    var key: String
    var id: String
    var partSize: Int64
    /// Size and tag of the object that it is made from: of another one nothing is taken.
    var size: Int64
    var tag: String?
    /// Those that the store has confirmed.
    var parts: [UploadedPart] = []
    /// The MD5 of the bytes of each.
    var sums: [Int: [UInt8]] = [:]

    var place: [UInt8] { Array(key.utf8) }

    mutating func add(_ part: UploadedPart, _ md5: [UInt8]?) {
        parts.append(part)
        sums[part.number] = md5
    }

    /// How many parts there will be.
    var count: Int { max(1, Int((size + partSize - 1) / partSize)) }
}

/// Reads the lines of a journal.
package struct SyncJournal {
    struct Line: Codable {
        var key: String?
        var value: String?
        var upload: PendingUpload?
        var part: UploadedPart?
        var md5: String?
        var ended: String?

        init(
            key: String? = nil, value: String? = nil, upload: PendingUpload? = nil, part: UploadedPart? = nil, md5: String? = nil,
            ended: String? = nil
        ) {
            (self.key, self.value, self.upload, self.part, self.md5, self.ended) = (key, value, upload, part, md5, ended)
        }
    }

    private(set) var uploads: [[UInt8]: PendingUpload] = [:]
    private var rest: [UInt8] = []
    /// Of a line that is longer than any of ours everything is passed over.
    private var skips = false
    private static let longestLine = 4 << 20

    package init() {}

    /// The last line has no end.
    var isTorn: Bool { !rest.isEmpty || skips }

    /// Takes the next bytes in; `found` is told what they say to be known.
    package mutating func read(_ bytes: UnsafeRawBufferPointer, found: (Record) throws -> Void) throws {
        var lines = bytes.split(separator: UInt8(ascii: "\n"), omittingEmptySubsequences: false)
        // What is behind the last end is no line yet.
        let last = lines.popLast()
        for line in lines {
            rest += line
            if !skips { try take(rest, found) }
            (rest, skips) = ([], false)
        }
        if let last { rest += last }
        if rest.count > SyncJournal.longestLine { (rest, skips) = ([], true) }
    }

    private mutating func take(_ text: [UInt8], _ found: (Record) throws -> Void) throws {
        guard let line = try? JSONDecoder().decode(Line.self, from: Data(text)) else { return }
        if let upload = line.upload { uploads[upload.place] = upload }
        if let part = line.part, let key = line.key {
            uploads[Array(key.utf8)]?.add(part, line.md5.flatMap { Data(base64Encoded: $0) }.map(Array.init))
        }
        if let ended = line.ended { uploads[Array(ended.utf8)] = nil }
        if let key = line.key.flatMap({ Data(base64Encoded: $0) }), let value = line.value.flatMap({ Data(base64Encoded: $0) }) {
            try found(Record(key: Array(key), value: Array(value)))
        }
    }

    static func line(_ line: Line) -> [UInt8] {
        // Strings and numbers only: it cannot fail.
        (try? JSONEncoder().encode(line)).map { Array($0) + [UInt8(ascii: "\n")] } ?? []
    }
}
