import FarmModel
import ObjectStorage

/// All objects of a bucket in the order in which they are written, whatever order the store lists them in.
struct BucketListing: Sendable {
    let records: SortedRecords
    /// Before the filter.
    let count: Int
    /// A farm's or a store's bucket.
    let isFarm: Bool

    init(of store: any ObjectStore, _ filter: ObjectFilter, _ progress: SyncProgress) async throws {
        var (sorter, count, isFarm) = (RecordSorter(), 0, false)
        try await store.each(prefix: "") { objects in
            progress.listed(objects.count)
            count += objects.count
            for object in objects {
                if object.key == SyncOrder.identity { isFarm = true }
                if filter.includes(object) { try sorter.add(object.record(rank: SyncOrder.farm.rank(object.key))) }
            }
        }
        (records, self.count, self.isFarm) = (try sorter.finish(), count, isFarm)
    }
}
