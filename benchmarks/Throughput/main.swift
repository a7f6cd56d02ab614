// The worker's path from bytes to packs, alone.
import ChunkStore
import FarmModel
import Foundation
import Glibc
import SystemIO

// usage: sciferry-bench-throughput FILE REPETITIONS
// Cuts, hashes and compresses a file as the worker does, and prints one JSON object a line: bytes, chunks, stored bytes,
// and for each part the best wall seconds and the CPU seconds of that round.

private struct Figure: Encodable {
    var part: String
    var bytes: Int64
    var chunks: Int
    var stored: Int64
    var wall: Double
    var cpu: Double
}

private func processorSeconds() -> Double {
    var usage = rusage()
    getrusage(__rusage_who_t(RUSAGE_SELF.rawValue), &usage)
    func seconds(_ time: timeval) -> Double { Double(time.tv_sec) + Double(time.tv_usec) / 1e6 }
    return seconds(usage.ru_utime) + seconds(usage.ru_stime)
}

private func best(_ part: String, _ rounds: Int, _ body: () throws -> (Int64, Int, Int64)) throws -> Figure {
    var best = Figure(part: part, bytes: 0, chunks: 0, stored: 0, wall: .infinity, cpu: 0)
    for _ in 0..<rounds {
        let (cpu, wall) = (processorSeconds(), Date())
        let (bytes, chunks, stored) = try body()
        let seconds = Date().timeIntervalSince(wall)
        if seconds < best.wall {
            best = Figure(part: part, bytes: bytes, chunks: chunks, stored: stored, wall: seconds, cpu: processorSeconds() - cpu)
        }
    }
    return best
}

let arguments = CommandLine.arguments
guard arguments.count == 3, let rounds = Int(arguments[2]) else {
    FileHandle.standardError.write(Data("usage: sciferry-bench-throughput FILE REPETITIONS\n".utf8))
    exit(64)
}
let file = try OpenFile(arguments[1], flags: O_RDONLY)
let size = try file.size()

private let cutAndHash = try best("chunk+hash", rounds) {
    var chunks = 0
    try ImageChunker.forEachChunk(of: file, size: size, parameters: .standard) { _, _, _ in chunks += 1 }
    return (size, chunks, 0)
}
private let all = try best("chunk+hash+compress", rounds) {
    var chunks = 0
    var stored: Int64 = 0
    var seen: Set<Digest> = []
    var builder = PackBuilder()
    try ImageChunker.forEachChunk(of: file, size: size, parameters: .standard) { digest, bytes, _ in
        chunks += 1
        guard seen.insert(digest).inserted else { return }
        try builder.add(digest, bytes)
        if builder.size >= 32 << 20 { stored += Int64(builder.finish().bytes.count) }
    }
    if !builder.isEmpty { stored += Int64(builder.finish().bytes.count) }
    return (size, chunks, stored)
}
for figure in [cutAndHash, all] { print(String(decoding: try CanonicalJSON.encode(figure), as: UTF8.self)) }
