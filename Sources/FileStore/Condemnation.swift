import FarmModel
import ObjectStorage

/// Objects that a collection found useless. They go when they were condemned for the whole grace time and still are useless: whoever adds a
/// file either sees the mark and does without objects of these names, or points at them long before they would go. So nobody needs a lock.
struct Condemnation: Codable, Sendable, Hashable {
    var format = 1
    var at: Timestamp
    /// In ascending order.
    var keys: [String]

    init(at: Timestamp, keys: Set<String>) { (self.at, self.keys) = (at, keys.sorted()) }

    private static let prefix = "condemned/"

    /// All marks of a bucket, with their keys. A damaged one says nothing: what it condemned is found anew.
    static func all(in bucket: any ObjectStore) async throws -> [(key: String, mark: Condemnation)] {
        for _ in 0..<100 {
            // One that went since it was listed may have been followed by another.
            if let marks = try await listed(in: bucket) { return marks }
        }
        throw FarmError("store.busy", .unavailable, "collections change the marks of \(bucket.name) all the time", hint: "try again")
    }

    private static func listed(in bucket: any ObjectStore) async throws -> [(key: String, mark: Condemnation)]? {
        var marks: [(key: String, mark: Condemnation)] = []
        for object in try await bucket.all(prefix: prefix) {
            do {
                let bytes = try await bucket.get(object.key)
                guard let mark = try? CanonicalJSON.decode(Condemnation.self, from: bytes, source: object.key), mark.format == 1,
                    mark.at.isSensible
                else { continue }
                marks.append((object.key, mark))
            } catch let error as FarmError where error.category == .notFound { return nil }
        }
        return marks
    }

    /// Since when keys are condemned, of several marks the first.
    static func times(_ marks: [(key: String, mark: Condemnation)]) -> [String: Timestamp] {
        var times: [String: Timestamp] = [:]
        for (_, mark) in marks {
            for key in mark.keys { times[key] = min(times[key] ?? mark.at, mark.at) }
        }
        return times
    }

    /// Writes the mark.
    func write(to bucket: any ObjectStore) async throws {
        let bytes = try CanonicalJSON.encode(self)
        try await bucket.put("\(Condemnation.prefix)\(Digest(hashing: bytes).hex).json", bytes)
    }
}
