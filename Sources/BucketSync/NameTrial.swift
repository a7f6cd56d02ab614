import ObjectStorage

/// Whether a destination keeps names of every form: found out once, when the first such name comes.
actor NameTrial {
    private var found: Task<Bool, any Error>?

    func keeps(_ store: S3Store) async throws -> Bool {
        let task =
            found
            ?? Task {
                var trial = StoreTrial(store)
                return try await trial.keepsNames()
            }
        found = task
        return try await task.value
    }
}
