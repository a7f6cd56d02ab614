/// What takes up a worker's disk.
package struct DiskUse: Codable, Sendable, Hashable {
    /// For people, for example `images`.
    package var what: String
    package var bytes: Int64

    package init(what: String, bytes: Int64) {
        self.what = what
        self.bytes = bytes
    }
}
