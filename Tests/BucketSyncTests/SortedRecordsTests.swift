import FarmModel
import ObjectStorage
import Support
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
    @Test func aTornJournalIsReadUpToItsTear() {
        let upload = PendingUpload(key: "a", id: "u1", partSize: 5, size: 9, tag: "t")
        let lines: [SyncJournal.Line] = [
            .init(upload: upload), .init(key: "a", part: .init(number: 1, size: 5, tag: "p1")),
            .init(upload: PendingUpload(key: "b", id: "u2", partSize: 5, size: 9, tag: "t")),
            .init(ended: "b"), .init(key: "a", part: .init(number: 2, size: 4, tag: "p2")),
        ]
        let bytes = lines.flatMap(SyncJournal.line)
        for cut in 0...bytes.count {
            let journal = SyncJournal(Array(bytes[..<cut]))
            #expect(journal.uploads["a"].map { $0.parts.count <= 2 } ?? true)
            #expect(journal.isTorn == (cut > 0 && bytes[cut - 1] != UInt8(ascii: "\n")))
        }
        let whole = SyncJournal(bytes)
        #expect(whole.uploads["a"]?.parts.map(\.tag) == ["p1", "p2"] && whole.uploads["b"] == nil)
    }
}
