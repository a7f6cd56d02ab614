import FarmModel
import Foundation
import Glibc
import SystemIO

/// A directory for one test, removed with the object.
package final class Scratch: Sendable {
    package let path: String

    package init() throws {
        path = "/tmp/sciferry-unit-\(Nonce.hex(bytes: 6))"
        try Disk.makeDirectory(path)
    }

    deinit { try? Disk.remove(path) }
}

/// The repository's root, found from this file's own place.
package enum Repository {
    package static let root = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
        .deletingLastPathComponent().path

    package static func file(_ path: String) throws -> [UInt8] { try Disk.read("\(root)/\(path)") }
}

/// Seeded numbers (SplitMix64, Steele et al. 2014), so that a failing sequence can be run again.
package struct SeededGenerator: RandomNumberGenerator {
    private var state: UInt64

    package init(_ seed: UInt64) { state = seed }

    package mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var z = state
        z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
        z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
        return z ^ (z >> 31)
    }

    package mutating func bytes(_ count: Int) -> [UInt8] { (0..<count).map { _ in UInt8(truncatingIfNeeded: next()) } }
}

/// The code of the error that a body throws, or `nil`.
package func code(of body: () async throws -> Void) async -> String? {
    do {
        try await body()
        return nil
    } catch let error as FarmError {
        return error.code.rawValue
    } catch {
        return "\(error)"
    }
}
