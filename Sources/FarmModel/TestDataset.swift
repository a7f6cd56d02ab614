/// Files that tests read: where they come from, what may be done with them, and their bytes' digests.
package struct TestDataset: Codable, Sendable, Hashable {
    package struct File: Codable, Sendable, Hashable {
        /// Within the dataset.
        package var path: String
        package var digest: Digest
        package var size: Int64

        package init(path: String, digest: Digest, size: Int64) {
            self.path = path
            self.digest = digest
            self.size = size
        }
    }

    package var name: String
    /// Where it was taken from, for people.
    package var source: String
    /// An SPDX expression.
    package var licence: String
    /// Sorted by path.
    package var files: [File]

    package init(name: String, source: String, licence: String, files: [File]) {
        self.name = name
        self.source = source
        self.licence = licence
        self.files = files.sorted { $0.path < $1.path }
    }

    /// Where the first region keeps what a dataset consists of. Its files lie among the farm's inputs.
    package static func key(_ name: String) -> String { "datasets/\(name).json" }

    /// What tells whether something is a dataset's name.
    package static func isName(_ text: String) -> Bool { text.wholeMatch(of: /[A-Za-z0-9][A-Za-z0-9._-]{0,99}/) != nil }

    /// A suite whose files are pinned to those of datasets; what cannot be had is why it is skipped.
    package static func pinned(_ suite: TestSuite, to datasets: [String: TestDataset]) -> TestSuite {
        guard let files = suite.files, suite.skipped.isEmpty else { return suite }
        var suite = suite
        var missing: [String] = []
        suite.files = files.map { file in
            guard let found = datasets[file.dataset]?.files.first(where: { $0.path == file.path }) else {
                missing.append("\(file.dataset)/\(file.path)")
                return file
            }
            return SuiteFile(dataset: file.dataset, path: file.path, digest: found.digest, size: found.size)
        }
        if let first = missing.first {
            suite.skipped =
                "the farm does not have \(first)\(missing.count > 1 ? " and \(missing.count - 1) more files" : "") (sciferry dataset add)"
            (suite.tests, suite.setup, suite.hostSetup, suite.files) = ([], "", nil, nil)
        }
        return suite
    }
}
