import FarmModel
import ObjectStorage
import Support
import SystemIO
import Testing

@testable import BucketSync

@Suite struct SortedRecordsTests {
    /// Whatever fits into memory, all records come out in order, the last of each key.
    @Test(arguments: [64, 300, 5000, 1 << 20]) func comeOutInOrder(limit: Int) throws {
        var generator = SeededGenerator(UInt64(limit))
        for _ in 0..<20 {
            var sorter = RecordSorter(limit: limit)
            var expected: [[UInt8]: [UInt8]] = [:]
            for _ in 0..<Int(generator.next() % 400) {
                // Short keys collide and are each other's beginnings.
                let key = (0..<Int(generator.next() % 4)).map { _ in UInt8(generator.next() % 4) * 85 }
                let value = generator.bytes(Int(generator.next() % 12))
                expected[key] = value
                try sorter.add(Record(key: key, value: value))
            }
            let sorted = try sorter.finish()
            for _ in 0..<2 {
                var reader = sorted.reader()
                var found: [Record] = []
                while let record = try reader.next() { found.append(record) }
                #expect(found == expected.sorted { $0.key.lexicographicallyPrecedes($1.key) }.map { Record(key: $0.key, value: $0.value) })
            }
        }
    }

    @Test func fieldsComeBack() throws {
        for known in [
            Known.same(size: 7, source: nil, destination: "\"x\""), .same(size: 0, source: "", destination: "é"),
            .missing(since: .init(seconds: 5)),
        ] {
            #expect(Known(known.value) == known)
        }
        #expect(Known([1, 2, 3]) == nil)
    }

    /// A line that a killed process half wrote is no line; what stands before it counts.
    @Test func aTornJournalIsReadUpToItsTear() throws {
        let upload = PendingUpload(key: "a", id: "u1", partSize: 5, size: 9, tag: "t")
        let lines: [SyncJournal.Line] = [
            .init(upload: upload), .init(key: "a", part: .init(number: 1, size: 5, tag: "p1")),
            .init(upload: PendingUpload(key: "b", id: "u2", partSize: 5, size: 9, tag: "t")),
            .init(ended: "b"), .init(key: "a", part: .init(number: 2, size: 4, tag: "p2")),
        ]
        let bytes = lines.flatMap(SyncJournal.line)
        for cut in 0...bytes.count {
            // In two pieces, as they are read.
            var journal = SyncJournal()
            for piece in [bytes[..<(cut / 2)], bytes[(cut / 2)..<cut]] {
                try Array(piece).withUnsafeBytes { try journal.read($0) { _ in } }
            }
            #expect(journal.uploads[Array("a".utf8)].map { $0.parts.count <= 2 } ?? true)
            #expect(journal.isTorn == (cut > 0 && bytes[cut - 1] != UInt8(ascii: "\n")))
        }
        var whole = SyncJournal()
        try bytes.withUnsafeBytes { try whole.read($0) { _ in } }
        #expect(whole.uploads[Array("a".utf8)]?.parts.map(\.tag) == ["p1", "p2"] && whole.uploads[Array("b".utf8)] == nil)
    }

    /// A journal that no run ever ended is made shorter when it is opened, and forgets nothing.
    @Test func aJournalDoesNotGrowForEver() throws {
        let scratch = try Scratch()
        func open() throws -> SyncMemory { try SyncMemory(directory: scratch.path, source: "a", destination: "b") }
        var memory = try open()
        try memory.began(PendingUpload(key: "open", id: "u", partSize: 5, size: 9, tag: "t"))
        let long = String(repeating: "x", count: 400)
        for number in 0..<20_000 {
            try memory.remember([6] + Array("\(number)".utf8), .same(size: Int64(number), source: long, destination: long))
        }
        let journal = try #require(try Disk.list(scratch.path).first { $0.hasSuffix(".journal") })
        #expect(Disk.size("\(scratch.path)/\(journal)") ?? 0 > 16 << 20)
        for _ in 0..<2 {
            memory.release()
            memory = try open()
            #expect(Disk.size("\(scratch.path)/\(journal)") ?? .max < 1000)
            #expect(memory.uploads.map(\.key) == ["open"])
            var (reader, count) = (memory.known.reader(), 0)
            while try reader.next() != nil { count += 1 }
            #expect(count == 20_000)
        }
    }
}
