package import FarmModel

/// `sciferry.lock` beside a recipe: the bytes of every input that it declares.
package struct RecipeLock: Codable, Sendable, Hashable {
    package var format = 1
    /// In the order of their keys.
    package var inputs: [LockedInput]
    /// Templates and includes, by path: digests of their bytes. Absent in locks of older versions.
    package var shared: [String: Digest]?

    /// Its name beside `build.yaml`.
    package static let fileName = "sciferry.lock"

    package init(_ inputs: some Sequence<LockedInput>, shared: [String: Digest]) {
        self.inputs = inputs.sorted { $0.key < $1.key }
        self.shared = shared.isEmpty ? nil : shared
    }

    /// Refuses templates and includes that are not the locked ones any more (`lock.changed`).
    package func check(_ shared: [String: Digest], _ source: RecipeSource) throws {
        for (path, digest) in shared.sorted(by: { $0.key < $1.key }) {
            guard let locked = self.shared?[path], locked != digest else { continue }
            throw RecipeLock.changed(path, locked, digest, in: source)
        }
    }

    /// The lock beside a recipe, if there is one; throws `lock.invalid`.
    package static func read(_ source: RecipeSource) throws -> RecipeLock? {
        guard let bytes = source.files[fileName] else { return nil }
        let path = source.location(of: fileName)
        do {
            let lock = try CanonicalJSON.decode(RecipeLock.self, from: bytes, source: path)
            guard lock.format == 1 else {
                throw FarmError("lock.invalid", .invalid, "\(path) has format \(lock.format); this version knows 1")
            }
            return lock
        } catch let error as FarmError {
            throw FarmError("lock.invalid", .invalid, error.message, hint: "write it anew: sciferry recipe lock \(source.path) --update")
        }
    }

    /// Whether another lock names the same bytes, whenever they were locked.
    package func holdsTheSame(as other: RecipeLock) -> Bool {
        func digests(_ lock: RecipeLock) -> [String: Digest] { Dictionary(lock.inputs.map { ($0.key, $0.digest) }) { first, _ in first } }
        return digests(self) == digests(other) && (shared ?? [:]) == (other.shared ?? [:])
    }

    /// The same without what it pins of a kind.
    package func without(_ kind: LockedInput.Kind) -> RecipeLock {
        RecipeLock(inputs.filter { $0.kind != kind }, shared: shared ?? [:])
    }

    /// The lock of one input.
    package func entry(_ key: String) -> LockedInput? { inputs.first { $0.key == key } }

    /// The file's bytes.
    package func bytes() throws -> [UInt8] { Array((try CanonicalJSON.pretty(self) + "\n").utf8) }

    /// The error for bytes that are not the locked ones any more.
    package static func changed(_ locked: LockedInput, now: LockedInput, in source: RecipeSource) -> FarmError {
        changed(locked.name, locked.digest, now.digest, in: source)
    }

    private static func changed(_ name: String, _ locked: Digest, _ now: Digest, in source: RecipeSource) -> FarmError {
        FarmError(
            "lock.changed", .invalid,
            "\(source.location(of: fileName)): \(name) is locked as sha256:\(locked.hex), upstream has sha256:\(now.hex) now",
            hint: "look at what changed; to accept it: sciferry build \(source.path) --update-lock")
    }
}
