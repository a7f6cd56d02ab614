import Crypto

/// A checksum that somebody publishes of a file.
package struct FileChecksum: Codable, Sendable, Hashable, CustomStringConvertible {
    package enum Algorithm: String, Codable, Sendable, Hashable, CaseIterable {
        case md5, sha256

        /// Hexadecimal digits.
        var digits: Int { self == .md5 ? 32 : 64 }
    }

    package var algorithm: Algorithm
    /// In lower case.
    package var hex: String

    /// Reads `sha256:HEX`, `md5:HEX` or hexadecimal digits alone, whose number tells; `nil` for anything else.
    package init?(_ text: String) {
        let parts = text.lowercased().split(separator: ":", omittingEmptySubsequences: false)
        let hex = String(parts.last ?? "")
        let named = parts.count == 2 ? Algorithm(rawValue: String(parts[0])) : Algorithm.allCases.first { $0.digits == hex.utf8.count }
        guard let named, parts.count <= 2, hex.utf8.count == named.digits, hex.utf8.allSatisfy({ "0123456789abcdef".utf8.contains($0) })
        else { return nil }
        algorithm = named
        self.hex = hex
    }

    package init(from decoder: any Decoder) throws {
        let container = try decoder.singleValueContainer()
        let text = try container.decode(String.self)
        guard let value = FileChecksum(text) else {
            throw DecodingError.dataCorruptedError(in: container, debugDescription: "\"\(text)\" is no checksum")
        }
        self = value
    }

    package func encode(to encoder: any Encoder) throws {
        var container = encoder.singleValueContainer()
        try container.encode(description)
    }

    package var description: String { "\(algorithm.rawValue):\(hex)" }

    /// The checksum that a digest is.
    package init(_ digest: Digest) {
        algorithm = .sha256
        hex = digest.hex
    }

    /// Makes a checksum in MD5 of bytes that come piece by piece.
    package struct MD5 {
        private var state = Insecure.MD5()

        package init() {}

        package mutating func update(_ bytes: UnsafeRawBufferPointer) { state.update(bufferPointer: bytes) }

        package func finish() -> FileChecksum { FileChecksum(md5: state.finalize().hex) }
    }

    private init(md5 hex: String) {
        algorithm = .md5
        self.hex = hex
    }
}

/// An image file that others made, and where it is to be had.
package struct ImportSource: Codable, Sendable, Hashable {
    /// The catalogue that names it, for example `neurodesk`.
    package var catalogue: String
    /// The file's name, for example `fsl_6.0.7.22_20260416.simg`.
    package var file: String
    /// URLs in order of preference: `https:`, `http:`, or `file:` for a directory that workers see.
    package var locations: [String]
    /// What its bytes must have; `nil` where nobody says, and then nobody can tell whether they are the right ones.
    package var checksum: FileChecksum?
    /// Bytes, where the catalogue says.
    package var size: Int64?
    /// Conda packages whose programs are its commands, for example `samtools=1.9`; empty where the image itself says which they are.
    package var packages: [String]

    /// Bytes that an image can have. No sum with such a number overflows.
    package static let possibleSizes: ClosedRange<Int64> = 1...(1 << 42)

    /// The locations as they may be shown: without queries, which may hold a signature.
    package var shownLocations: [String] { locations.map { String($0.prefix { $0 != "?" }) } }

    package init(
        catalogue: String, file: String, locations: [String], checksum: FileChecksum? = nil, size: Int64? = nil, packages: [String] = []
    ) {
        self.catalogue = catalogue
        self.file = file
        self.locations = locations
        self.checksum = checksum
        self.size = size
        self.packages = packages
    }
}

/// One image of a catalogue: what a farm can take in as it is.
package struct CatalogueEntry: Codable, Sendable, Hashable {
    package var name: String
    package var version: String
    /// For example `x86_64`.
    package var architecture: String
    package var source: ImportSource
    package var description: String
    package var categories: [String]
    package var licences: [String]
    /// Beside those that the image names; those that it does not have are left out.
    package var commands: [String]
    package var programs: [GraphicalProgram]
    package var runtimeArguments: [String]

    package init(
        name: String, version: String, architecture: String, source: ImportSource, description: String = "", categories: [String] = [],
        licences: [String] = [], commands: [String] = [], programs: [GraphicalProgram] = [], runtimeArguments: [String] = []
    ) {
        self.name = name
        self.version = version
        self.architecture = architecture
        self.source = source
        self.description = description
        self.categories = categories
        self.licences = licences
        self.commands = commands
        self.programs = programs
        self.runtimeArguments = runtimeArguments
    }

    /// What a farm has one of: a later entry of the same key takes its place.
    package var key: String { "\(source.catalogue) \(name) \(version) \(architecture)" }

    /// `fsl 6.0.7.22`, for people.
    package var title: String { "\(name) \(version)" }

    /// Throws `import.entry`, naming the image and what is wrong with it.
    ///
    /// - Parameter needsPlace: whether it must say where the image is to be had.
    package func check(needsPlace: Bool = true) throws {
        func refuse(_ why: String) -> FarmError {
            FarmError("import.entry", .invalid, "\(source.file.printable()) of \(source.catalogue.printable()): \(why)")
        }
        for (what, text) in [("name", name), ("version", version), ("catalogue", source.catalogue)] where !PlainName.isValid(text) {
            throw refuse("\"\(text.printable())\" is no \(what): letters, digits, '-', '_', '.', at most 64")
        }
        guard ["x86_64", "aarch64"].contains(architecture) else {
            throw refuse("images for \(architecture.printable()) are not known here")
        }
        guard !source.file.isEmpty, !source.file.contains("/"), source.file.utf8.count <= 255, source.file == source.file.printable() else {
            throw refuse("this is no file name")
        }
        guard !source.locations.isEmpty || !needsPlace, source.locations.count <= 16 else {
            throw refuse("nothing says where it is to be had")
        }
        for location in source.locations {
            let isKnown = ["https://", "http://", "file:///"].contains { location.hasPrefix($0) }
            let host = location.dropFirst(8).prefix { $0 != "/" }
            guard !host.contains("@") else { throw refuse("an address with a password in it would be shown to everybody") }
            guard isKnown, location.utf8.count <= 2000, !location.contains(where: \.isWhitespace), location == location.printable() else {
                throw refuse("\"\(location.printable())\" is no address of the kind https:, http: or file:")
            }
        }
        if let size = source.size, !ImportSource.possibleSizes.contains(size) { throw refuse("its size is \(size)") }
        for command in commands where !CommandName.isValid(command) { throw refuse("\"\(command.printable())\" is no command's name") }
        let texts = [description] + categories + licences + runtimeArguments + source.packages + programs.flatMap { [$0.name, $0.command] }
        guard texts.count <= 1000, texts.allSatisfy({ $0.utf8.count <= 10_000 }) else { throw refuse("it says more than anybody reads") }
    }
}

/// Where a release's image comes from, when the farm took it in as it is instead of building it.
package struct ImportOrigin: Codable, Sendable, Hashable {
    package var catalogue: String
    package var file: String
    package var locations: [String]
    /// What the catalogue says of its bytes, which it has.
    package var checksum: FileChecksum?

    package init(_ source: ImportSource) {
        catalogue = source.catalogue
        file = source.file
        locations = source.shownLocations
        checksum = source.checksum
    }

    /// Whether anybody has said which bytes the file should have.
    package var isVerified: Bool { checksum != nil }

    /// For people: `taken in from neurodesk, fsl_6.0.7.22_20260416.simg; unverified, …`.
    package var title: String {
        let state = checksum.map { "has its published checksum (\($0.algorithm.rawValue))" } ?? "unverified: nobody publishes its checksum"
        return "taken in from \(catalogue), \(file); \(state)"
    }
}

extension Plan {
    /// How an image that is taken in as it is becomes a release.
    ///
    /// - Parameter diskBytes: free bytes that a worker must have.
    package init(taking entry: CatalogueEntry, diskBytes: Int64) {
        let digest = entry.source.checksum.flatMap { $0.algorithm == .sha256 ? Digest($0.hex) : nil }
        self.init(
            name: entry.name, version: entry.version, architecture: entry.architecture, target: entry.architecture,
            base: BaseImage(
                name: entry.source.file, digest: digest ?? Digest(hashing: entry.source.file), origin: .image, size: entry.source.size ?? 0,
                bootstrap: nil), dockerfile: "", context: [], commands: entry.commands, commandPaths: [], programs: entry.programs,
            runtimeArguments: entry.runtimeArguments, description: entry.description, categories: entry.categories,
            licences: entry.licences, suite: TestSuite(skipped: "the image was not built here"), diskBytes: diskBytes, instructions: .warn)
        format = Plan.importFormat
        source = entry.source
    }
}
