package import FarmModel
import Logging
import ObjectStorage
import SystemIO
import TestSuites

/// Data that tests read. Its files lie among the farm's inputs by their digests, what it consists of in the coordinator's home and in the
/// first region.
extension Coordinator {
    /// Reads what the home has, and sees to the data that is computed.
    func openDatasets() throws {
        try Disk.makeDirectory(home.datasets)
        for name in try Disk.list(home.datasets) where name.hasSuffix(".json") {
            let path = "\(home.datasets)/\(name)"
            let dataset: TestDataset = try CanonicalJSON.decode(from: try Disk.read(path, limit: 64 << 20), source: path)
            datasets[dataset.name] = dataset
        }
        let phantoms = Phantoms.dataset
        for file in phantoms.dataset.files where !blobs.contains(file.digest) {
            if let bytes = phantoms.files[file.path] { try blobs.put(bytes) }
        }
        if datasets[Phantoms.name] != phantoms.dataset { try keep(phantoms.dataset) }
    }

    private func keep(_ dataset: TestDataset) throws {
        try Disk.replace("\(home.datasets)/\(dataset.name).json", with: try CanonicalJSON.encode(dataset))
        datasets[dataset.name] = dataset
        archivedDatasets.remove(dataset.name)
    }

    /// All datasets, sorted by name.
    package func datasetViews() -> [TestDataset] { datasets.values.sorted { $0.name < $1.name } }

    /// Takes a dataset whose files have come; throws `dataset.incomplete` with the digests of those that have not.
    package func add(_ dataset: TestDataset, by holder: String) throws -> [Digest] {
        guard TestDataset.isName(dataset.name), dataset.name != Phantoms.name else {
            throw FarmError("dataset.name", .invalid, "\"\(dataset.name.prefix(100))\" is no name for a dataset")
        }
        guard !dataset.source.isEmpty, !dataset.licence.isEmpty else {
            throw FarmError("dataset.origin", .invalid, "\(dataset.name) says not where it comes from, or under which licence")
        }
        var paths: Set<String> = []
        for file in dataset.files {
            let parts = file.path.split(separator: "/", omittingEmptySubsequences: false)
            guard !parts.contains(where: { $0.isEmpty || $0 == "." || $0 == ".." }), paths.insert(file.path).inserted, file.size >= 0 else {
                throw FarmError("dataset.path", .invalid, "\(dataset.name) cannot have a file \"\(file.path.prefix(200))\"")
            }
        }
        for file in dataset.files {
            if let known = Disk.size(blobs.path(file.digest)) ?? archived[file.digest], known != file.size {
                throw FarmError("dataset.size", .invalid, "\(dataset.name): \(file.path) has \(known) bytes, not \(file.size)")
            }
        }
        let missing = Set(dataset.files.map(\.digest)).filter { !blobs.contains($0) && archived[$0] == nil }
        if missing.isEmpty {
            try keep(dataset)
            logger.notice(
                "dataset added", metadata: ["name": "\(dataset.name)", "files": "\(dataset.files.count)", "by": "\(holder)"])
        }
        return missing.sorted()
    }

    /// Takes a file of a dataset that is to come, verified.
    package func takeDatasetFile(_ path: String, as digest: Digest) throws { try blobs.adopt(path, as: digest) }

    /// Brings what the first region lacks into it, and what the home has lost out of it.
    func archiveDatasets() async throws {
        for dataset in datasets.values where !archivedDatasets.contains(dataset.name) {
            for file in dataset.files where archived[file.digest] == nil && blobs.contains(file.digest) {
                try await firstRegion.put(Coordinator.archiveKey(file.digest), .file(path: blobs.path(file.digest), size: file.size))
                archived[file.digest] = file.size
            }
            try await firstRegion.put(TestDataset.key(dataset.name), try CanonicalJSON.encode(dataset))
            archivedDatasets.insert(dataset.name)
            logger.info("dataset archived", metadata: ["name": "\(dataset.name)"])
        }
    }

    /// Datasets that only the first region knows, after the loss of a home.
    func recallDatasets() async throws {
        for object in try await firstRegion.all(prefix: "datasets/") {
            let bytes = try await firstRegion.get(object.key, range: nil, limit: 64 << 20)
            guard let dataset = try? CanonicalJSON.decode(TestDataset.self, from: bytes, source: object.key),
                TestDataset.key(dataset.name) == object.key
            else {
                logger.warning("a dataset in the first region cannot be read", metadata: ["key": "\(object.key)"])
                continue
            }
            if datasets[dataset.name] == nil { try keep(dataset) }
            if datasets[dataset.name] == dataset { archivedDatasets.insert(dataset.name) }
        }
    }

    /// How the suites of a tool went, oldest first.
    package func testRuns(of name: String) async throws -> [TestRun] {
        let journal = journal
        return try await Blocking.run { try journal.testRuns(of: name, limit: 200) }
    }
}
