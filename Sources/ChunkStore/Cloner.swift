import Synchronization
import SystemIO

/// Lets a new file share the blocks of local ones where the file system can (XFS, btrfs): what a broken download left, or what lies in the same
/// place of another version, takes no room twice.
final class Cloner: Sendable {
    /// Bytes that are the same in a local file and, at another place or the same, in the new one.
    struct Piece {
        var path: String
        var from: Int64
        var to: Int64
        var count: Int64
    }

    private let isUseless = Atomic(false)
    private static let block: Int64 = 4096
    /// Less is not worth a call.
    private static let least: Int64 = 64 << 10

    /// Shares what can be shared of bytes that were written already; where that fails they stay as they are.
    func share(_ pieces: [Piece], with file: OpenFile) {
        var runs: [Piece] = []
        for piece in pieces {
            guard let last = runs.last, last.path == piece.path, last.from + last.count == piece.from, last.to + last.count == piece.to
            else {
                runs.append(piece)
                continue
            }
            runs[runs.count - 1].count += piece.count
        }
        for run in runs where run.from % Cloner.block == run.to % Cloner.block && !isUseless.load(ordering: .relaxed) {
            let skipped = (Cloner.block - run.from % Cloner.block) % Cloner.block
            let count = (run.count - skipped) / Cloner.block * Cloner.block
            guard count >= Cloner.least, let other = try? OpenFile(run.path, flags: 0) else { continue }
            defer { other.close() }
            let start = run.from + skipped
            if !file.clone(start..<start + count, of: other, to: run.to + skipped) { isUseless.store(true, ordering: .relaxed) }
        }
    }
}
