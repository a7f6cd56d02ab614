import FarmModel
import Foundation
package import HTTPTransport

/// What an S3 server's refusal means.
package enum S3Answer {
    /// Throws `storage.denied`, `storage.full` or another `storage.` error, naming bucket and object, unless the answer is a success.
    package static func check(_ response: HTTPResponse, _ key: String, _ deed: String, in bucket: String) throws {
        if response.isSuccess { return }
        let answer = XMLText(response.body)
        let code = answer.text("Code") ?? ""
        let message = "cannot \(deed) \(key) in \(bucket): status \(response.status)\(code.isEmpty ? "" : " \(code)")"
        let isFull = response.status == 507 || code.contains("QuotaExceeded") || code == "XMinioStorageFull"
        if isFull { throw FarmError("storage.full", .full, message, hint: "free space in the bucket or raise its quota") }
        if code == "RequestTimeTooSkewed" {
            let theirs = response.headers["date"].flatMap(HTTPDate.read)
            let minutes = theirs.map { Timestamp.now.seconds(since: $0) / 60 }
            let apart = minutes.map { "\(Int(abs($0).rounded())) min \($0 > 0 ? "ahead of" : "behind") the store's" } ?? "not the store's"
            throw FarmError(
                "storage.clock", .denied, "\(message): this machine's clock is \(apart)", hint: "set the clock: timedatectl set-ntp true")
        }
        if code.hasPrefix("Expired") || code == "TokenRefreshRequired" {
            throw FarmError(
                "storage.expired", .denied, "\(message): the keys have expired",
                hint: "renew them and run it again; what is done stays done")
        }
        if code == "BadDigest" || code == "InvalidDigest" || code == "XAmzContentSHA256Mismatch" {
            throw FarmError("storage.digest", .corrupt, "\(message): the bytes that arrived are not those that were announced")
        }
        if code == "NoSuchBucket" { throw FarmError("storage.absent", .notFound, message, hint: "make the bucket or check its name") }
        if response.status == 301 || code == "AuthorizationHeaderMalformed" {
            let region = answer.text("Region").map { ", region=\($0)" } ?? ""
            throw FarmError(
                "storage.location", .usage, "\(message)\(region)",
                hint: "write ?region=NAME behind the bucket's address, and its own endpoint")
        }
        if response.status == 403 || response.status == 401 {
            throw FarmError("storage.denied", .denied, message, hint: "check the bucket's keys and its region setting")
        }
        if response.status == 412 { throw FarmError("storage.changed", .conflict, message, hint: "run it again") }
        throw FarmError(
            "storage.failed", RetryPolicy.isTransient(status: response.status) ? .unavailable : .fault, message,
            retryAfter: response.retryAfter)
    }
}
