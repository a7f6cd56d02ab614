import ChunkStore
import FarmModel
import Foundation
import Glibc
import SystemIO

/// Indexes of many chunks: opened, merged into one, and searched.
///
///     sciferry-bench-index STORE SCRATCH
///
/// STORE is the directory of a store of files; of each, 100 chunks are looked for. Prints `{"chunks":…,"openSeconds":…,"mergeSeconds":…,"lookupMicros":…}`.
let arguments = CommandLine.arguments
guard arguments.count == 3 else {
    FileHandle.standardError.write(Data("usage: sciferry-bench-index STORE SCRATCH\n".utf8))
    exit(64)
}

struct Figures: Codable {
    var chunks: Int
    var openSeconds: Double
    var mergeSeconds: Double
    var reopenSeconds: Double
    var lookupMicros: Double
    var found: Int
}

func seconds(_ body: () throws -> Void) rethrows -> Double {
    let time = try ContinuousClock().measure(body)
    return Double(time.components.seconds) + Double(time.components.attoseconds) / 1e18
}

let directory = "\(arguments[1])/indexes"
var indexes: [PackIndex] = []
let opening = try seconds {
    indexes = try Disk.list(directory).map { try PackIndex(try OpenFile("\(directory)/\($0)", flags: O_RDONLY), source: $0) }
}
let file = try OpenFile(nameless: arguments[2])
let merging = try seconds { try PackIndex.merge(indexes, into: file) }
// Chunks that are there, and below as many that are not.
let manifests = "\(arguments[1])/manifests"
let present = try Disk.list(manifests).flatMap { name in
    try ImageManifest(try Disk.read("\(manifests)/\(name)"), source: name).chunks.prefix(100).map(\.digest)
}
var merged: PackIndex?
let reopening = try seconds { merged = try PackIndex(file, source: "all") }
guard let all = merged else { exit(1) }
var (found, count) = (0, 0)
let looking = try seconds {
    for digest in present {
        found += try all.locations(of: digest).count
        found += try all.locations(of: Digest(hashing: digest.bytes)).count
        count += 2
    }
}
let figures = Figures(
    chunks: all.count, openSeconds: opening, mergeSeconds: merging, reopenSeconds: reopening, lookupMicros: looking / Double(count) * 1e6,
    found: found)
print(String(decoding: try CanonicalJSON.encode(figures), as: UTF8.self))
