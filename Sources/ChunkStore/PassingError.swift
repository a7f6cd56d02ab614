import FarmModel

extension Error {
    /// Whether the same may succeed later: a region was away, or somebody broke it off.
    package var mayPass: Bool { self is CancellationError || (self as? FarmError)?.category.isTransient ?? false }
}
