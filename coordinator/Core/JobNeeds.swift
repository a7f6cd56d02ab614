package import FarmModel

/// What a build asks of whoever does it, beside its CPU target.
package struct JobNeeds: Sendable, Hashable {
    /// Free bytes on the worker.
    package var diskBytes: Int64
    /// Whether the recipe said so; what earlier builds took up tells more than a general rule.
    package var declaresDisk: Bool
    package var memoryBytes: Int64
    package var labels: LabelWish
    /// See `JobRecord.layers`.
    package var layers: [UInt64]

    package init(
        diskBytes: Int64, declaresDisk: Bool = true, memoryBytes: Int64 = 0, labels: LabelWish = LabelWish(), layers: [UInt64] = []
    ) {
        self.diskBytes = diskBytes
        self.declaresDisk = declaresDisk
        self.memoryBytes = memoryBytes
        self.labels = labels
        self.layers = layers
    }
}
