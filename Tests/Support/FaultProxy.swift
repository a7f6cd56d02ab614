import FarmModel
import Foundation
import SystemIO

/// Stands before an S3 server and does to its answers what servers and lines do now and then.
package final class FaultProxy: Sendable {
    package struct Rule: Encodable, Sendable {
        /// A regular expression over `METHOD path`.
        package var match: String
        package var times: Int
        /// One of those in `fault-proxy.py`.
        package var fault: String

        package init(_ match: String, _ fault: String, times: Int = 1) {
            self.match = match
            self.fault = fault
            self.times = times
        }
    }

    package let endpoint: String
    private let child: Child
    private let scratch: Scratch

    /// - Parameter certificate: paths of a certificate and its key, to speak TLS.
    package init(before backend: String, _ rules: [Rule], certificate: (String, String)? = nil) throws {
        scratch = try Scratch()
        let port = backend.split(separator: ":").last.map(String.init) ?? ""
        try Disk.replace("\(scratch.path)/rules", with: try JSONEncoder().encode(rules) + [10])
        let arguments = [
            "-c", "exec /usr/bin/python3 \"$@\" < \(scratch.path)/rules > \(scratch.path)/port 2>> \(scratch.path)/errors", "sh",
            "\(Repository.root)/Tests/Support/fault-proxy.py", port, "\(scratch.path)/log",
        ]
        child = try Child("/bin/sh", arguments + (certificate.map { [$0.0, $0.1] } ?? []), log: "\(scratch.path)/out")
        var found: Int?
        for _ in 0..<200 where found == nil {
            found = (try? Disk.read("\(scratch.path)/port")).flatMap {
                Int(String(decoding: $0, as: UTF8.self).trimmingCharacters(in: .whitespacesAndNewlines))
            }
            if found == nil { usleep(50_000) }
        }
        guard let found else { throw FarmError("test.proxy", .fault, "the fault proxy did not come up") }
        endpoint = "\(certificate == nil ? "http" : "https")://127.0.0.1:\(found)"
    }

    deinit { child.kill() }

    /// The requests that reached the server: `METHOD path status sent`.
    package var log: [String] {
        let bytes = (try? Disk.read("\(scratch.path)/log")) ?? []
        return String(decoding: bytes, as: UTF8.self).split(separator: "\n").map(String.init)
    }
}
