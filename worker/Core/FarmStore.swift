import FarmModel
import ObjectStorage

/// The farm's first region as workers may read it: through the coordinator, and only what makes up images.
struct FarmStore: ObjectStore {
    private let line: FarmLine

    init(line: FarmLine) { self.line = line }

    var name: String { "the farm's store" }

    func get(_ key: String, range: Range<Int64>?) async throws -> [UInt8] {
        let bytes = try await line.object(key, range: range)
        if let range, bytes.count != range.count { throw StorageFailure.short(key, in: name) }
        return bytes
    }

    func head(_ key: String) async throws -> ObjectInfo? { throw readOnly }
    func put(_ key: String, _ source: ObjectSource) async throws { throw readOnly }
    func delete(_ key: String) async throws { throw readOnly }
    func list(prefix: String, after: String?) async throws -> ObjectPage { throw readOnly }
    func grantUpload(_ key: String, size: Int64, seconds: Int) async throws -> UploadGrant? { throw readOnly }

    private var readOnly: FarmError { FarmError("storage.read-only", .usage, "\(name) can only be read, object by object") }
}
