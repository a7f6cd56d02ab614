import ChunkStore
import FarmModel
import FileStore
import Foundation
import ObjectStorage
import Support
import Synchronization
import SystemIO
import Testing

/// Additions, removals and collections side by side, each killed at any step: whatever pointer is there, its file comes back.
@Suite struct FileStoreModelTests {
    private static let seeds: Range<UInt64> = {
        let number = ProcessInfo.processInfo.environment["SCIFERRY_STORE_SEEDS"].flatMap { UInt64($0) } ?? 60
        return 0..<number
    }()

    @Test func nothingReachableIsEverLost() async throws {
        for seed in Self.seeds { #expect(try await run(seed) == [], "seed \(seed)") }
    }

    /// What is wrong after a seed's rounds.
    private func run(_ seed: UInt64) async throws -> [String] {
        var wrong: [String] = []
        let scratch = try Scratch()
        var generator = SeededGenerator(seed)
        let pieces = (0..<6).map { _ in generator.bytes(Int(4000 + generator.next() % 9000)) }
        let (bucket, clock) = (MemoryStore(), TestClock())
        // Packs so small that indexes list several.
        let packSize = 6000
        _ = try await FileStore.open(bucket, making: FileStoreTests.small, clock: clock.read)
        for round in 0..<12 {
            try await withThrowingTaskGroup(of: Void.self) { tasks in
                for number in 0..<Int(1 + generator.next() % 3) {
                    let (choice, name, own) = (generator.next() % 8, "f\(generator.next() % 4)", generator.next())
                    let killed = generator.next() % 3 == 0 ? Int(generator.next() % 25) : nil
                    // Some processes are so slow that what they began with may be gone when they end.
                    let slow = generator.next() % 4 == 0 ? 1.5 : 0.01
                    let picked = pieces.indices.filter { _ in generator.next() % 2 == 0 }.flatMap { pieces[$0] }
                    let path = "\(scratch.path)/\(round)-\(number)"
                    try Disk.replace(path, with: picked)
                    tasks.addTask {
                        do {
                            let process = MortalStore(bucket, clock, seed: own, killedAfter: killed, longestStep: slow)
                            let store = try await FileStore(process, packSize: packSize, clock: clock.read)
                            switch choice {
                            case 0...3: _ = try await store.add(path, as: name, jobs: 2)
                            case 4: try await store.remove(name)
                            default: _ = try await store.collect()
                            }
                        } catch let error as FarmError where ["test.killed", "file.absent", "store.slow"].contains(error.code) {
                            return
                        } catch let error as FarmError where error.code == "store.damaged" && error.message.contains("not there") {
                            // A file that was removed, and with it all that it needs, while a slow collection looked at it.
                            return
                        }
                    }
                }
                try await tasks.waitForAll()
            }
            clock.pass(hours: Double(generator.next() % 30))
            wrong += try await look(bucket, clock, scratch).map { "round \(round): \($0)" }
        }
        // And nothing stays that nobody needs.
        let store = try await FileStore(bucket, clock: clock.read)
        for file in try await store.files() { try await store.remove(file.name) }
        for _ in 0..<3 {
            _ = try await store.collect()
            clock.pass(hours: 25)
        }
        _ = try await store.collect()
        return wrong + (try await bucket.all().map(\.key).filter { $0 != StoreHeader.key }.map { "\($0) stays" })
    }

    /// Damage, and files that do not come back.
    private func look(_ bucket: MemoryStore, _ clock: TestClock, _ scratch: Scratch) async throws -> [String] {
        let store = try await FileStore(bucket, clock: clock.read)
        var wrong = try await store.check(.all).damages.map { "\($0.key): \($0.message)" }
        for file in try await store.files() {
            let out = "\(scratch.path)/out"
            try await FileStore.restore(file, try await store.restoration(of: file), to: out, replaces: true)
            if Digest(hashing: try Disk.read(out)) != file.digest { wrong.append("\(file.name) comes back as something else") }
        }
        return wrong
    }
}
