package import FarmModel
import Foundation

/// Lists of checksums as `sha256sum` and `md5sum` write them, and in BSD's form.
package enum ChecksumList {
    /// Checksums by file name, without directories; of two for one file the stronger.
    ///
    /// - Throws: `checksum.line`, naming `source` and the line.
    package static func read(_ bytes: [UInt8], source: String) throws -> [String: FileChecksum] {
        var result: [String: FileChecksum] = [:]
        let lines = String(decoding: bytes, as: UTF8.self).split(omittingEmptySubsequences: false, whereSeparator: \.isNewline)
        for (number, line) in lines.enumerated() where !line.allSatisfy(\.isWhitespace) && !line.hasPrefix("#") {
            guard let (path, checksum) = entry(String(line)) else {
                throw FarmError(
                    "checksum.line", .invalid, "\(source), line \(number + 1): this is no checksum of a file",
                    hint: "wanted: lines as sha256sum or md5sum write them")
            }
            let name = path.split(separator: "/").last.map(String.init) ?? path
            if let there = result[name], there.algorithm == .sha256, checksum.algorithm == .md5 { continue }
            if let there = result[name], there != checksum, there.algorithm == checksum.algorithm {
                throw FarmError(
                    "checksum.line", .invalid, "\(source), line \(number + 1): \(name.printable()) has had another checksum before")
            }
            result[name] = checksum
        }
        return result
    }

    private static func entry(_ line: String) -> (path: String, checksum: FileChecksum)? {
        if let match = line.wholeMatch(of: /(?:SHA2-256|SHA256|MD5) ?\((.+)\) ?= ?([0-9A-Fa-f]+)\s*/) {
            return FileChecksum(String(match.2)).map { (String(match.1), $0) }
        }
        guard let match = line.wholeMatch(of: /([0-9A-Fa-f]{32,64}) [ *]?(.+?)\s*/) else { return nil }
        return FileChecksum(String(match.1)).map { (String(match.2), $0) }
    }
}
