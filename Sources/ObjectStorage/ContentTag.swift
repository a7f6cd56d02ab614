import Foundation

/// What an object's tag tells of its content (Amazon S3 API, "Checking object integrity": ETags).
package enum ContentTag: Sendable, Hashable {
    /// The MD5 of the content, as long as the store says so of its tags.
    case md5([UInt8])
    /// The MD5 of the MD5s of so many parts.
    case parts([UInt8], count: Int)
    /// Nothing but that another tag is another object.
    case opaque(String)

    package init(_ tag: String) {
        let parts = tag.split(separator: "-", omittingEmptySubsequences: false)
        if let digest = parts.first.flatMap({ ContentTag.bytes($0) }) {
            if parts.count == 1 {
                self = .md5(digest)
                return
            }
            if parts.count == 2, let count = Int(parts[1]), count > 0 {
                self = .parts(digest, count: count)
                return
            }
        }
        self = .opaque(tag)
    }

    /// The MD5 if this is one.
    package var md5: [UInt8]? { if case .md5(let digest) = self { digest } else { nil } }

    private static func bytes(_ text: Substring) -> [UInt8]? {
        guard text.utf8.count == 32 else { return nil }
        var bytes: [UInt8] = []
        var high: UInt8?
        for digit in text.utf8 {
            guard let value = digit.hexValue else { return nil }
            if let first = high {
                bytes.append(first << 4 | value)
                high = nil
            } else {
                high = value
            }
        }
        return bytes
    }
}

extension UInt8 {
    /// The value of a hexadecimal digit.
    package var hexValue: UInt8? {
        switch self {
        case 48...57: self - 48
        case 65...70: self - 55
        case 97...102: self - 87
        default: nil
        }
    }
}

extension [UInt8] {
    /// As HTTP headers carry it.
    package var base64: String { Data(self).base64EncodedString() }
}
