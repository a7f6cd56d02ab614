package import FarmModel

/// What an image's configuration says of how it runs (OCI image-spec, "config.md").
package struct ImageConfiguration: Sendable {
    /// The document as it was.
    package let bytes: [UInt8]
    /// As Go names it, for example `amd64`; empty when it does not say.
    package let architecture: String
    /// Digests of the layers' archives, bottom first.
    package let diffIDs: [Digest]
    package let environment: [(name: String, value: String)]
    package let entrypoint: [String]
    package let command: [String]
    package let directory: String
    package let user: String
    /// How Docker would find out whether it works.
    package let check: [String]
    private let ownLabels: [String: String]

    private struct Document: Decodable {
        struct Run: Decodable {
            struct Check: Decodable { var Test: [String]? }
            var Env: [String]?
            var Entrypoint: [String]?
            var Cmd: [String]?
            var Labels: [String: String]?
            var WorkingDir: String?
            var User: String?
            var Healthcheck: Check?
        }
        struct Root: Decodable { var diff_ids: [String]? }
        var architecture: String?
        var config: Run?
        var rootfs: Root?
    }

    /// Reads the document; throws `image.configuration`, naming `source`.
    package init(_ bytes: [UInt8], source: String) throws {
        let document: Document
        do { document = try CanonicalJSON.decode(Document.self, from: bytes, source: source) } catch {
            throw FarmError("image.configuration", .corrupt, "\(source) is no image's configuration", cause: error)
        }
        self.bytes = bytes
        architecture = document.architecture ?? ""
        diffIDs = try (document.rootfs?.diff_ids ?? []).map {
            guard let digest = Digest($0) else { throw FarmError("image.configuration", .corrupt, "\(source) names a layer \"\($0)\"") }
            return digest
        }
        let run = document.config
        environment = (run?.Env ?? []).compactMap { entry in
            let scalars = entry.unicodeScalars
            return scalars.firstIndex(of: "=").map { (String(scalars[..<$0]), String(scalars[scalars.index(after: $0)...])) }
        }
        entrypoint = run?.Entrypoint ?? []
        command = run?.Cmd ?? []
        directory = run?.WorkingDir ?? ""
        user = run?.User ?? ""
        check = run?.Healthcheck?.Test ?? []
        ownLabels = run?.Labels ?? [:]
    }

    /// The image's labels with others, which count more, and with what Singularity knows no other place for.
    func labels(_ others: [String: String]) -> [String: String] {
        var labels = ownLabels
        if !user.isEmpty { labels["org.sciferry.docker-user"] = user }
        if !directory.isEmpty { labels["org.sciferry.docker-workdir"] = directory }
        return labels.merging(others) { $1 }
    }
}

/// What goes into an image beside its layers.
package struct ImagePapers: Sendable {
    package struct File: Sendable {
        package var name: String
        package var bytes: [UInt8]

        package init(name: String, bytes: [UInt8]) {
            self.name = name
            self.bytes = bytes
        }
    }

    /// Added to the image's own.
    package var labels: [String: String]
    /// What the image was made from, in the language of its maker.
    package var definition: String?
    /// Lie in `/.singularity.d/sciferry`.
    package var files: [File]
    /// A bill of materials in SPDX JSON, as an object of the SIF.
    package var materials: [UInt8]?

    package init(labels: [String: String] = [:], definition: String? = nil, files: [File] = [], materials: [UInt8]? = nil) {
        self.labels = labels
        self.definition = definition
        self.files = files
        self.materials = materials
    }
}
