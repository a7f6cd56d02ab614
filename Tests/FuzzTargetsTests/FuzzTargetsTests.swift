import FuzzTargets
import Support
import SystemIO
import Testing

@Suite struct FuzzTargetsTests {
    /// Seeded damage to sound inputs: flips, cuts, insertions, doublings. A fault traps, so that this process ends.
    @Test(arguments: FuzzTarget.allCases) func damageEndsInATypedError(_ target: FuzzTarget) throws {
        var generator = SeededGenerator(2026)
        let seeds = try target.seeds()
        #expect(!seeds.isEmpty)
        for seed in seeds { target.feed(seed) }
        for _ in 0..<1500 {
            var bytes = seeds[Int(generator.next() % UInt64(seeds.count))]
            for _ in 0...Int(generator.next() % 4) where !bytes.isEmpty {
                let place = Int(generator.next() % UInt64(bytes.count))
                switch generator.next() % 5 {
                case 0: bytes[place] ^= 1 << UInt8(generator.next() % 8)
                case 1: bytes[place] = UInt8(truncatingIfNeeded: generator.next())
                case 2: bytes.removeSubrange(place..<min(bytes.count, place + Int(generator.next() % 40)))
                case 3: bytes.insert(contentsOf: generator.bytes(Int(generator.next() % 9)), at: place)
                default: bytes.insert(contentsOf: bytes[place..<min(bytes.count, place + 200)], at: place)
                }
            }
            target.feed(bytes)
        }
    }

    /// Inputs that once did harm.
    @Test func knownCulpritsAreHarmless() throws {
        var count = 0
        for target in FuzzTarget.allCases {
            let directory = "\(Repository.root)/Tests/FuzzTargets/culprits/\(target.rawValue)"
            for name in (try? Disk.list(directory)) ?? [] {
                target.feed(try Disk.read("\(directory)/\(name)"))
                count += 1
            }
        }
        #expect(count >= 2, "the culprits were not found")
    }
}
