import ChunkStore
import FarmModel
import ObjectStorage
import Support
import Synchronization
import Testing

/// Which region is asked, by what they did.
@Suite struct RegionRatingTests {
    private let mebi: Int64 = 1 << 20

    private func rating(_ regions: Int = 2) -> RegionRating { RegionRating(regions: regions, leastPatience: 5) }

    private func answer(_ rating: inout RegionRating, _ region: Int, _ bytes: Int64, _ seconds: Double) {
        rating.began(region, bytes)
        rating.ended(region, bytes, seconds: seconds, isWhole: true)
    }

    @Test func theFirstIsLeftForOneThatIsFaster() {
        var rating = rating()
        #expect(rating.order(mebi, now: 0) == [0, 1])
        // Fast enough that nobody looks elsewhere.
        answer(&rating, 0, 1000, 0.01)
        answer(&rating, 0, 8 * mebi, 0.1)
        #expect(rating.order(8 * mebi, now: 0) == [0, 1])
        // Slower than another one probably is, and then than it is.
        var slow = self.rating()
        answer(&slow, 0, 1000, 1.5)
        #expect(slow.order(mebi, now: 0) == [1, 0])
        answer(&slow, 1, 1000, 3)
        #expect(slow.order(mebi, now: 0) == [0, 1])
    }

    @Test func muchUnderWayGoesToSeveral() {
        var rating = rating()
        for region in 0..<2 { answer(&rating, region, 8 * mebi, 0.5) }
        #expect(rating.order(8 * mebi, now: 0) == [0, 1])
        rating.began(0, 8 * mebi)
        #expect(rating.order(8 * mebi, now: 0) == [1, 0])
        rating.began(1, 8 * mebi)
        #expect(rating.order(8 * mebi, now: 0) == [0, 1])
    }

    /// One that nobody knows is tried while another one is busy, once, and never for a single read.
    @Test func whatNobodyKnowsIsTriedBesideWhatIsBusy() {
        var rating = rating(3)
        answer(&rating, 0, 8 * mebi, 0.1)
        #expect(rating.order(2 * mebi, now: 0) == [0, 1, 2])
        rating.began(0, 2 * mebi)
        #expect(rating.order(1000, now: 0).first == 0, "what is small tells nothing of a rate")
        #expect(rating.order(2 * mebi, now: 0).first == 1)
        rating.began(1, 2 * mebi)
        #expect(rating.order(2 * mebi, now: 0).first == 2)
        rating.began(2, 2 * mebi)
        #expect(rating.order(2 * mebi, now: 0).first == 0)
        // Its first answer was slow, so it gets little from now on.
        rating.ended(1, 2 * mebi, seconds: 4, isWhole: true)
        #expect(rating.order(2 * mebi, now: 0).first == 0)
        rating.failed(2, now: 0)
        #expect(rating.order(2 * mebi, now: 100).last != 0)
    }

    @Test func whatFailsIsAskedLastForAMinute() {
        var rating = rating(3)
        rating.failed(0, now: 100)
        #expect(rating.order(10, now: 159) == [1, 2, 0] && rating.isLate(0, 159))
        #expect(rating.order(10, now: 160) == [0, 1, 2])
        rating.failed(0, now: 200)
        answer(&rating, 0, 10, 0.001)
        #expect(!rating.isLate(0, 201))
    }

    @Test func theTimeIsKnownOnceSomethingWasRead() throws {
        var rating = rating()
        #expect(rating.seconds(for: mebi, now: 0) == nil)
        answer(&rating, 0, 10 * mebi, 1)
        let seconds = try #require(rating.seconds(for: 100 * mebi, now: 0))
        #expect((5...15).contains(seconds) && rating.seconds(for: 0, now: 0) == 0)
    }

    @Test(arguments: 0..<40) func whateverHappensEveryRegionIsInTheOrder(_ seed: UInt64) {
        var generator = SeededGenerator(seed)
        var rating = rating(4)
        var open: [(Int, Int64)] = []
        for step in 0..<400 {
            let region = Int(generator.next() % 4)
            switch generator.next() % 4 {
            case 0, 1:
                open.append((region, Int64(generator.next() % 9_000_000)))
                rating.began(open[open.count - 1].0, open[open.count - 1].1)
            case 2 where !open.isEmpty:
                let (region, bytes) = open.remove(at: Int(generator.next() % UInt64(open.count)))
                rating.ended(region, bytes, seconds: Double(generator.next() % 5000) / 1000, isWhole: generator.next() % 3 > 0)
            default: rating.failed(region, now: Double(step))
            }
            #expect(rating.order(Int64(generator.next() % 9_000_000), now: Double(step)).sorted() == [0, 1, 2, 3])
            let patience = rating.patience(region)
            #expect(patience >= 5 && patience.isFinite)
        }
    }

    /// A region that answers no more in the middle is replaced, without its connection having to break.
    @Test func aRegionThatHangsIsReplaced() async throws {
        let whole = MemoryStore(name: "memory:whole")
        let hanging = HangingStore(whole, after: 3)
        for number in 0..<6 { try await whole.put("k\(number)", Array("value \(number)".utf8)) }
        let reader = RegionReader(regions: [hanging, whole], patience: 0.1)
        for number in 0..<6 {
            let bytes = try await reader.read("k\(number)") { bytes, _ in bytes }
            #expect(bytes == Array("value \(number)".utf8))
        }
        #expect(reader.incidents.map(\.region) == ["memory:hanging"] && hanging.asked.load(ordering: .relaxed) == 4)
    }

    /// Whether there is a newer root is asked every time, and nearly always there is none: one that hangs must not be waited for.
    @Test(.timeLimit(.minutes(1))) func absenceIsNotWaitedForWhereItCounts() async throws {
        let reader = RegionReader(regions: [HangingStore(MemoryStore(), after: 0), MemoryStore(name: "memory:empty")])
        let found = try await reader.readAll("roots/2.json", limit: 1 << 20, absenceCounts: true) { bytes, _ in bytes }
        #expect(found.isEmpty)
    }
}

/// A bucket that gives some answers and then none.
private final class HangingStore: ObjectStore {
    let name = "memory:hanging"
    let asked = Atomic<Int>(0)
    private let bucket: MemoryStore
    private let answers: Int

    init(_ bucket: MemoryStore, after answers: Int) { (self.bucket, self.answers) = (bucket, answers) }

    func get(_ key: String, range: Range<Int64>?, limit: Int64) async throws -> [UInt8] {
        if asked.add(1, ordering: .relaxed).newValue > answers { try await Task.sleep(for: .seconds(600)) }
        return try await bucket.get(key, range: range, limit: limit)
    }
    func head(_ key: String) async throws -> ObjectInfo? { try await bucket.head(key) }
    func put(_ key: String, _ source: ObjectSource) async throws { try await bucket.put(key, source) }
    func delete(_ key: String) async throws { try await bucket.delete(key) }
    func list(prefix: String, after: String?) async throws -> ObjectPage { try await bucket.list(prefix: prefix, after: after) }
    func grantUpload(_ key: String, size: Int64, seconds: Int) async throws -> UploadGrant? { nil }
}
