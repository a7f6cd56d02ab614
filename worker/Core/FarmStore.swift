import FarmModel
import ObjectStorage

/// One of the farm's regions as workers may read it: through the coordinator, and only what makes up images.
struct FarmStore: ObjectStore {
    private let line: FarmLine
    private let region: Int
    private let prefix: String

    /// - Parameters:
    ///   - region: counted from 0.
    ///   - prefix: what its keys begin with.
    init(line: FarmLine, region: Int, prefix: String = "") {
        self.line = line
        self.prefix = prefix
        self.region = region
    }

    var name: String { "the farm's region \(region + 1)" }

    func get(_ key: String, range: Range<Int64>?, limit: Int64) async throws -> [UInt8] {
        if range?.isEmpty ?? false { return [] }
        let bytes = try await line.object(prefix + key, range: range, region: region)
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
