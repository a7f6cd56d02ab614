package import FarmModel
import Foundation
package import HTTPTypes

/// What a request makes its answer depend on (RFC 9110, section 13.2.2).
package struct Precondition: Sendable {
    /// The answer without the file, `nil` where the file is wanted.
    package let status: HTTPResponse.Status?

    /// - Parameters:
    ///   - tag: the file's entity tag, a strong one.
    ///   - modified: when it became what it is.
    package init(_ headers: HTTPFields, tag: String, modified: Timestamp) {
        let seconds = modified.milliseconds / 1000
        func names(_ list: String, weakly: Bool) -> Bool {
            list.split(separator: ",").map { $0.trimmingCharacters(in: .whitespaces) }.contains {
                $0 == "*" || $0 == tag || weakly && $0 == "W/\(tag)"
            }
        }
        if let list = headers[.ifMatch] {
            if !names(list, weakly: false) { status = .preconditionFailed; return }
        } else if let date = headers[.ifUnmodifiedSince].flatMap(HTTPDate.seconds), date < seconds {
            status = .preconditionFailed
            return
        }
        if let list = headers[.ifNoneMatch] {
            status = names(list, weakly: true) ? .notModified : nil
        } else if let date = headers[.ifModifiedSince].flatMap(HTTPDate.seconds), date >= seconds {
            status = .notModified
        } else {
            status = nil
        }
    }
}

/// Dates as HTTP has them (RFC 9110, section 5.6.7): `Sun, 06 Nov 1994 08:49:37 GMT`.
package enum HTTPDate {
    package static func text(_ time: Timestamp) -> String {
        formatter.string(from: Date(timeIntervalSince1970: Double(time.milliseconds / 1000)))
    }

    /// Seconds since 1970; `nil` for what is no such date.
    package static func seconds(_ text: String) -> Int64? { formatter.date(from: text).map { Int64($0.timeIntervalSince1970) } }

    private static var formatter: DateFormatter {
        let formatter = DateFormatter()
        formatter.locale = Locale(identifier: "en_US_POSIX")
        formatter.timeZone = TimeZone(identifier: "GMT")
        formatter.dateFormat = "EEE, dd MMM yyyy HH:mm:ss 'GMT'"
        return formatter
    }
}
