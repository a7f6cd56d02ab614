/// What went wrong, in the one form that every room throws.
///
/// Equality and tests go by `code`; `message` names the file, line or object; `hint` says what to do about it.
package struct FarmError: Error, Sendable, CustomStringConvertible {
    /// A stable name such as `recipe.unknown-key`; the part before the dot is the room's subject.
    package struct Code: RawRepresentable, Hashable, Sendable, ExpressibleByStringLiteral {
        package let rawValue: String
        package init(rawValue: String) { self.rawValue = rawValue }
        package init(stringLiteral value: String) { self.rawValue = value }
    }

    /// What sort of trouble it is; decides the exit status and the HTTP status (see `FarmError.Category`).
    package enum Category: String, Sendable, Codable, CaseIterable {
        case usage, invalid, notFound, conflict, denied, unavailable, corrupt, full, failed, cancelled, fault
    }

    package let code: Code
    package let category: Category
    package let message: String
    package let hint: String?
    package let cause: String?
    /// Seconds that a service asked to be left alone; `nil` where it asked for nothing.
    package let retryAfter: Double?

    package init(
        _ code: Code, _ category: Category, _ message: String, hint: String? = nil, cause: (any Error)? = nil, retryAfter: Double? = nil
    ) {
        self.code = code
        self.category = category
        self.message = message
        self.hint = hint
        self.cause = cause.map { String(describing: $0) }
        self.retryAfter = retryAfter
    }

    package var description: String {
        var text = "\(message) [\(code.rawValue)]"
        if let cause { text += " (\(cause))" }
        if let hint { text += "\n  \(hint)" }
        return text
    }
}

extension FarmError.Category {
    /// The process exit status of the command line; the table stands in `docs/exit-codes.md`.
    package var exitStatus: Int32 {
        switch self {
        case .usage: 64
        case .invalid: 65
        case .notFound: 66
        case .unavailable: 69
        case .fault: 70
        case .corrupt: 71
        case .full: 73
        case .conflict: 75
        case .denied: 77
        case .failed: 1
        case .cancelled: 130
        }
    }

    /// The status with which the coordinator's API answers.
    package var httpStatus: Int {
        switch self {
        case .usage, .invalid: 400
        case .denied: 403
        case .notFound: 404
        case .conflict: 409
        case .failed, .cancelled: 422
        case .fault, .corrupt: 500
        case .unavailable: 503
        case .full: 507
        }
    }

    /// Whether the same request can succeed later without anything being changed by a person.
    package var isTransient: Bool { self == .unavailable }
}

/// An error as the coordinator's API sends it.
package struct ErrorDocument: Codable, Sendable, Hashable {
    package struct Body: Codable, Sendable, Hashable {
        package var code: String
        package var category: String
        package var message: String
        package var hint: String?
    }
    package var error: Body

    package init(_ error: FarmError) {
        self.error = Body(
            code: error.code.rawValue, category: error.category.rawValue,
            message: error.cause.map { "\(error.message) (\($0))" } ?? error.message, hint: error.hint)
    }

    /// The error it stands for.
    package var farmError: FarmError {
        FarmError(
            .init(rawValue: error.code), FarmError.Category(rawValue: error.category) ?? .fault, error.message, hint: error.hint)
    }
}
