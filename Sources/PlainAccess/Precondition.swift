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
        let published = Timestamp(seconds: modified.milliseconds / 1000)
        func names(_ list: String, weakly: Bool) -> Bool {
            list.split(separator: ",").map { $0.trimmingCharacters(in: .whitespaces) }.contains {
                $0 == "*" || $0 == tag || weakly && $0 == "W/\(tag)"
            }
        }
        if let list = headers[.ifMatch] {
            if !names(list, weakly: false) { status = .preconditionFailed; return }
        } else if let date = headers[.ifUnmodifiedSince].flatMap(HTTPDate.read), date < published {
            status = .preconditionFailed
            return
        }
        if let list = headers[.ifNoneMatch] {
            status = names(list, weakly: true) ? .notModified : nil
        } else if let date = headers[.ifModifiedSince].flatMap(HTTPDate.read), date >= published {
            status = .notModified
        } else {
            status = nil
        }
    }
}
