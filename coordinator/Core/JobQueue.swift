import FarmModel

/// Jobs that wait for a worker, in classes whose members ask for the same of it, so that a worker is measured against a class and
/// not against every job.
struct JobQueue: Sendable {
    /// What all jobs of a class share.
    struct Kind: Hashable, Sendable {
        /// Resolve and verify jobs, for which others wait.
        var isAwaited: Bool
        var isVerification: Bool
        var priority: JobPriority
        var requester: String
        /// The CPU target that a worker must run; empty when any will do.
        var target: String
        var allowsEmulation: Bool
        var labels: LabelWish
        /// For the untrusted pool, and for no other.
        var isCandidate: Bool
    }

    /// A job as far as placing it needs it.
    struct Entry: Sendable, Hashable {
        var id: JobID
        var number: Int
        var recipe: String
        /// Seconds that it is expected to take on a worker of speed 1.
        var length: Double
        var queuedAt: Timestamp
        var diskBytes: Int64
        var memoryBytes: Int64
        var notBefore: Timestamp?
        /// What a worker that has built the like has on its disk already.
        var affinity: UInt64
        /// Workers on which it failed through no fault of its own.
        var avoided: [WorkerName]
    }

    struct Class: Sendable {
        /// Oldest first.
        private(set) var byAge: [Entry] = []
        /// Longest first, of the same length the older.
        private(set) var byLength: [Entry] = []
        /// The sum of all lengths, in seconds.
        private(set) var work: Double = 0

        var isEmpty: Bool { byAge.isEmpty }

        mutating func insert(_ entry: Entry) {
            byAge.insert(entry, at: Class.place(byAge) { $0.number < entry.number })
            byLength.insert(entry, at: Class.place(byLength) { Class.precedes($0, entry) })
            work += entry.length
        }

        mutating func remove(_ entry: Entry) {
            let age = Class.place(byAge) { $0.number < entry.number }
            if age < byAge.count, byAge[age].id == entry.id { byAge.remove(at: age) }
            let length = Class.place(byLength) { Class.precedes($0, entry) }
            if length < byLength.count, byLength[length].id == entry.id { byLength.remove(at: length) }
            work = byAge.isEmpty ? 0 : work - entry.length
        }

        private static func precedes(_ one: Entry, _ other: Entry) -> Bool { (-one.length, one.number) < (-other.length, other.number) }

        /// The first place whose entry does not stand before, in a sorted list.
        private static func place(_ list: [Entry], _ standsBefore: (Entry) -> Bool) -> Int {
            var (low, high) = (0, list.count)
            while low < high {
                let middle = (low + high) / 2
                if standsBefore(list[middle]) { low = middle + 1 } else { high = middle }
            }
            return low
        }
    }

    private(set) var classes: [Kind: Class] = [:]
    private var places: [JobID: (kind: Kind, entry: Entry)] = [:]

    var count: Int { places.count }

    func kind(of id: JobID) -> Kind? { places[id]?.kind }
    func entry(of id: JobID) -> Entry? { places[id]?.entry }

    /// The members of every class, oldest first.
    var entries: [Kind: [Entry]] { classes.mapValues(\.byAge) }

    mutating func insert(_ job: JobRecord) {
        let kind = Kind(
            isAwaited: job.kind == .verify || job.kind == .resolve && job.priority == nil, isVerification: job.kind == .verify,
            priority: job.priority ?? .interactive,
            requester: job.requestedBy, target: job.needsCPU ? job.target : "",
            allowsEmulation: job.allowsEmulation ?? false, labels: job.labels ?? LabelWish(),
            isCandidate: job.isCandidate ?? false)
        let entry = Entry(
            id: job.id, number: job.number, recipe: job.recipe, length: job.expectedSeconds ?? JobQueue.unknownLength,
            queuedAt: job.createdAt, diskBytes: job.diskBytes, memoryBytes: job.memoryBytes ?? 0, notBefore: job.notBefore,
            affinity: job.affinity, avoided: job.avoided ?? [])
        if let there = places[job.id] {
            if there.kind == kind, there.entry == entry { return }
            remove(job.id)
        }
        classes[kind, default: Class()].insert(entry)
        places[job.id] = (kind, entry)
    }

    mutating func remove(_ id: JobID) {
        guard let place = places.removeValue(forKey: id) else { return }
        classes[place.kind]?.remove(place.entry)
        if classes[place.kind]?.isEmpty ?? false { classes[place.kind] = nil }
    }

    /// Of a recipe that was never built: the median of Neurodesk's.
    static let unknownLength: Double = 480
}

extension JobRecord {
    /// Whether code for its CPU target is run: what a registry or a server has is the same bytes whoever asks.
    var needsCPU: Bool { resolve.map { $0.kind == .base && $0.bootstrap != nil } ?? !(takesIn ?? false) }

    /// Equal for builds that a worker can spare itself the same work of: that have the same layers up to a point, or, of those whose
    /// layers are not known, are of one recipe and CPU target.
    var affinity: UInt64 { warmth ?? (kind == .build && !(takesIn ?? false) ? Digest(hashing: "\(recipe)\n\(target)").leading >> 12 : 0) }
}
