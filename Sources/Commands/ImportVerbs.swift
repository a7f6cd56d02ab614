import ArgumentParser
import CoordinatorCore
import FarmModel
import Foundation
import HTTPTransport
import ImageCatalogues
import SystemIO

/// Takes in images that others made.
struct ImportCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "import",
        abstract: "Take in images that others made: catalogue them all at once, fetch those that somebody wants.",
        discussion: """
            Images are taken in as they are, cut into chunks and served like the farm's own. `sciferry pull` fetches what a catalogue has
            and the farm has not yet.
            """,
        subcommands: [
            ImportNeurodeskCommand.self, ImportDepotCommand.self, ImportImageCommand.self, ImportListCommand.self,
            ImportFetchCommand.self, ImportNameCommand.self,
        ])
}

/// Reads what catalogues consist of, from files and from the web.
enum CatalogueReader {
    /// A file's or an address's bytes.
    static func bytes(_ source: String) async throws -> [UInt8] {
        guard isURL(source) else { return try await Blocking.run { try Disk.read(source, limit: 256 << 20) } }
        var request = HTTPRequest("GET", source, stallSeconds: 60, responseLimit: 256 << 20, followsRedirects: true)
        request.deadlineSeconds = 600
        let asked = request
        let response = try await HTTPClient().performRetrying(asked, policy: RetryPolicy())
        guard response.isSuccess else {
            throw FarmError("catalogue.absent", .notFound, "\(source) answers with status \(response.status)", hint: "check the address")
        }
        return response.body
    }

    /// A file, or all files below a directory whose names end so, sorted.
    static func files(_ source: String, suffix: String) async throws -> [(path: String, bytes: [UInt8])] {
        guard !isURL(source), Disk.isDirectory(source) else { return [(source, try await bytes(source))] }
        return try await Blocking.run {
            var found: [(path: String, bytes: [UInt8])] = []
            var open = [source]
            while let directory = open.popLast() {
                for name in try Disk.list(directory) where !name.hasPrefix(".") {
                    let path = "\(directory)/\(name)"
                    if Disk.isDirectory(path) {
                        open.append(path)
                    } else if name.hasSuffix(suffix) {
                        found.append((path, try Disk.read(path, limit: 16 << 20)))
                    }
                }
            }
            guard !found.isEmpty else {
                throw FarmError("catalogue.absent", .notFound, "there is no file \(source)/…\(suffix)", hint: "check the directory")
            }
            return found.sorted { $0.path < $1.path }
        }
    }

    /// Where images lie: a directory with what is in it, or an address.
    static func place(_ text: String) async throws -> ImagePlace {
        if isURL(text) { return .web(text) }
        let path = Disk.absolute(text.hasPrefix("file://") ? String(text.dropFirst(7)) : text)
        guard Disk.isDirectory(path) else {
            throw FarmError(
                "catalogue.absent", .notFound, "\(text) is neither a directory nor an address",
                hint: "for example /cvmfs/images or https://…")
        }
        return try await Blocking.run {
            let names = try Disk.list(path).map { ($0, Disk.size(Disk.realPath("\(path)/\($0)") ?? "") ?? 0) }
            return .directory(path, files: Dictionary(names.filter { $0.1 > 0 }) { first, _ in first })
        }
    }

    static func isURL(_ text: String) -> Bool { text.hasPrefix("https://") || text.hasPrefix("http://") }
}

/// What all catalogues have in common.
struct CatalogueOptions: ParsableArguments {
    @Option(help: "Where the images lie: a directory that workers see, or an address; may be repeated, the best first.") var images:
        [String] = []
    @Option(help: "What sha256sum or md5sum has written of them; images without are marked unverified.") var checksums: String?
    @Flag(help: "Only say what the catalogue has.") var dryRun = false

    private struct Report: Encodable {
        var images: Int
        var verifiable: Int
        var answer: ImportAnswer?
        var remarks: [String]
    }

    /// Sends a catalogue to the farm and says what became of it.
    func send(_ catalogue: Catalogue, to farm: FarmOptions, places: [String]? = nil) async throws {
        var catalogue = catalogue
        var found: [ImagePlace] = []
        for text in places ?? images { found.append(try await CatalogueReader.place(text)) }
        catalogue.place(at: found)
        if let checksums {
            catalogue.know(try ChecksumList.read(try await CatalogueReader.bytes(checksums), source: checksums))
        }
        guard !catalogue.entries.isEmpty else {
            throw FarmError(
                "catalogue.empty", .notFound, "nothing of the catalogue is to be had: \(catalogue.remarks.joined(separator: "; "))",
                hint: "--images says where the images lie")
        }
        var report = Report(
            images: catalogue.entries.count, verifiable: catalogue.entries.count { $0.source.checksum != nil }, remarks: catalogue.remarks)
        if !dryRun { report.answer = try await CatalogueOptions.send(catalogue.entries, to: try farm.client()) }
        if farm.json { return try Console.json(report) }
        for remark in catalogue.remarks { Console.error(remark) }
        let unverified = report.images - report.verifiable
        Console.print("\(report.images) images, \(unverified == 0 ? "all with" : "\(unverified) without") a published checksum")
        guard let answer = report.answer else { return Console.print("nothing was imported") }
        Console.print("\(answer.added) new, \(answer.changed) changed, \(answer.unchanged) known already")
        if let first = catalogue.entries.first { Console.print("fetched when somebody wants them: sciferry pull \(first.name)") }
    }

    /// In parts, since the lists of all of BioContainers are long.
    static func send(_ entries: [CatalogueEntry], to client: FarmClient) async throws -> ImportAnswer {
        var sum = ImportAnswer()
        for start in stride(from: 0, to: entries.count, by: 5000) {
            let part = Array(entries[start..<min(start + 5000, entries.count)])
            let answer: ImportAnswer = try await client.post("/api/v1/imports", ImportRequest(entries: part))
            sum.added += answer.added
            sum.changed += answer.changed
            sum.unchanged += answer.unchanged
        }
        return sum
    }
}

/// Neurodesk's images.
struct ImportNeurodeskCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "neurodesk", abstract: "Catalogue Neurodesk's images.",
        discussion: """
            The catalogue is neurocommand's apps.json, or neurocontainers' directory releases/.
            Example:
              sciferry import neurodesk --catalog apps.json --images https://images.example/neurodesk
            """)

    @OptionGroup var farm: FarmOptions
    @Option(name: .customLong("catalog"), help: "apps.json, a directory releases/, or the address of an apps.json.") var catalogue: String
    @OptionGroup var options: CatalogueOptions

    func run() async throws {
        try await reporting {
            let isDirectory = !CatalogueReader.isURL(catalogue) && Disk.isDirectory(catalogue)
            let read: Catalogue
            if isDirectory {
                read = try NeurodeskCatalogue.releases(try await CatalogueReader.files(catalogue, suffix: ".json"))
            } else {
                read = try NeurodeskCatalogue.apps(try await CatalogueReader.bytes(catalogue), source: catalogue)
            }
            try await options.send(read, to: farm)
        }
    }
}

/// BioContainers' images.
struct ImportDepotCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "depot", abstract: "Catalogue BioContainers' images as the Galaxy project's depot lists them.",
        discussion: """
            The list is the depot's page, or a file with a name like samtools:1.9--h91753b0_8 on each line. Images of several packages have
            hashes for names; the lists of BioContainers' multi-package-containers tell what is in them.
            Examples:
              sciferry import depot --listing https://depot.galaxyproject.org/singularity/ --only samtools
              sciferry import depot --listing names.txt --images /depot --combinations multi-package-containers/combinations
            """)

    @OptionGroup var farm: FarmOptions
    @Option(help: "The list: a file, or the address of the depot's page, which is then also where the images lie.") var listing: String
    @Option(help: "A directory or file with combinations of packages.") var combinations: String?
    @Option(help: "Only images of this name, or with this package; may be repeated.") var only: [String] = []
    @OptionGroup var options: CatalogueOptions

    func run() async throws {
        try await reporting {
            let files =
                if let combinations { try await CatalogueReader.files(combinations, suffix: ".tsv") } else {
                    [(path: String, bytes: [UInt8])]()
                }
            let known = DepotListing.combinations(files)
            var read = try DepotListing.read(try await CatalogueReader.bytes(listing), combinations: known.packages)
            read.remark(known.remarks)
            let names = Set(only)
            if !names.isEmpty {
                read.keep { entry in
                    names.contains(entry.name) || entry.source.packages.contains { names.contains(String($0.prefix { $0 != "=" })) }
                }
            }
            let places = options.images.isEmpty && CatalogueReader.isURL(listing) ? [listing] : options.images
            try await options.send(read, to: farm, places: places)
        }
    }
}

/// One image.
struct ImportImageCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "image", abstract: "Take in one image, a .sif or .simg file.",
        discussion: """
            Example:
              sciferry import image /srv/images/mytool.sif --name mytool --version 1.0 --command mytool
            """)

    @OptionGroup var farm: FarmOptions
    @Argument(help: "The image: a file that workers see, or an address.") var image: String
    @Option(help: "What the farm shall call it.") var name: String
    @Option(help: "Its version.") var version: String
    @Option(help: "The machines that it is for.") var architecture = "x86_64"
    @Option(help: "A command that it offers, beside those that it names itself; may be repeated.") var command: [String] = []
    @Option(help: "sha256:HEX or md5:HEX that its bytes must have.") var checksum: String?
    @Option(help: "What it is.") var description = ""
    @Option(help: "Its licence (SPDX); may be repeated.") var licence: [String] = []
    @Flag(help: "Do not wait for the end.") var detach = false

    func run() async throws {
        try await reporting {
            var checksum: FileChecksum?
            if let text = self.checksum {
                checksum = FileChecksum(text)
                guard checksum != nil else {
                    throw FarmError("import.checksum", .usage, "\"\(text)\" is no checksum", hint: "sha256:HEX or md5:HEX")
                }
            }
            let file = image.split(separator: "/").last.map(String.init) ?? image
            let directory = String(image.dropLast(file.count))
            var source = ImportSource(catalogue: "images", file: file, locations: [image], checksum: checksum)
            if !CatalogueReader.isURL(image) {
                let place = try await CatalogueReader.place(directory.isEmpty ? "." : directory)
                var catalogue = Catalogue(of: source)
                catalogue.place(at: [place])
                guard let there = catalogue.entries.first?.source else {
                    throw FarmError("file.absent", .notFound, "there is no file \(image)", hint: "name a .sif or .simg file, or an address")
                }
                source = there
            }
            let entry = CatalogueEntry(
                name: name, version: version, architecture: architecture, source: source, description: description, licences: licence,
                commands: command)
            let client = try farm.client()
            _ = try await CatalogueOptions.send([entry], to: client)
            try await ImportDemand(client: client, quiet: farm.json).fetch(
                [ImportWish(ReleaseWish(name: name, version: version), architecture: architecture, catalogue: "images")], detach: detach,
                json: farm.json)
        }
    }
}

/// Shows what catalogues offer.
struct ImportListCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "list", abstract: "Show what the farm's catalogues have, and what of it was fetched.",
        discussion: "Example:\n  sciferry import list samtools")

    @OptionGroup var farm: FarmOptions
    @Argument(help: "Only images whose name or description contains this.") var text = ""
    @Option(help: "At most so many.") var limit = 1000

    func run() async throws {
        try await reporting {
            let text = text.addingPercentEncoding(withAllowedCharacters: .alphanumerics) ?? ""
            let views: [ImportView] = try await farm.client().get("/api/v1/imports?containing=\(text)&limit=\(max(1, limit))")
            if farm.json { return try Console.json(views) }
            Console.table(
                ["NAME", "VERSION", "CPU", "FROM", "STATE", "CHECKSUM", "NOTE"],
                views.map { view in
                    let entry = view.entry
                    return [
                        entry.name, entry.version, entry.architecture, entry.source.catalogue, view.state.rawValue,
                        entry.source.checksum?.algorithm.rawValue ?? "-", view.problem ?? entry.description,
                    ]
                })
        }
    }
}

/// Fetches what a catalogue offers.
struct ImportFetchCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "fetch", abstract: "Take images of the farm's catalogues in now, instead of when somebody wants them.",
        discussion: """
            Examples:
              sciferry import fetch fsl/6.0.7.22 afni
              sciferry import fetch samtools=1.3.1,bedtools=2.22
              sciferry import fetch --all neurodesk --detach
            """)

    @OptionGroup var farm: FarmOptions
    @Argument(help: "NAME, NAME/VERSION, or conda packages.") var images: [String] = []
    @Option(help: "Everything that a catalogue has, after all other work.") var all: String?
    @Flag(help: "Do not wait for the end.") var detach = false

    func validate() throws {
        if images.isEmpty == (all == nil) { throw ValidationError("name images, or a catalogue with --all") }
    }

    func run() async throws {
        try await reporting {
            let client = try farm.client()
            let demand = ImportDemand(client: client, quiet: farm.json)
            guard let all else {
                return try await demand.fetch(try images.map { ImportWish(try ImportDemand.wish($0)) }, detach: detach, json: farm.json)
            }
            var jobs: [JobRecord] = []
            while true {
                let more: [JobRecord] = try await client.post("/api/v1/imports/fetch-all", CatalogueWish(catalogue: all))
                if more.isEmpty { break }
                jobs += more
            }
            try await demand.follow(jobs, detach: detach, json: farm.json)
        }
    }
}

/// Says what BioContainers call an image.
struct ImportNameCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "name", abstract: "Say what BioContainers call the image with certain conda packages.",
        discussion: "Example:\n  sciferry import name samtools=1.3.1,bedtools=2.22")

    @Argument(help: "PACKAGE[=VERSION[=BUILD]], parted by commas.") var packages: String

    func run() async throws {
        try await reporting {
            let name = MulledName(try MulledName.packages(packages))
            Console.print("\(name.name):\(name.tag)")
        }
    }
}

/// Has the farm take in what somebody wants.
struct ImportDemand: Sendable {
    let client: FarmClient
    let quiet: Bool

    /// What is meant by `NAME`, `NAME/VERSION`, `NAME:TAG`, or a list of conda packages.
    static func wish(_ text: String) throws -> ReleaseWish {
        guard text.contains("=") else {
            let (name, version) = SiteAccess.split(text)
            return ReleaseWish(name: name, version: version)
        }
        let name = MulledName(try MulledName.packages(text))
        return ReleaseWish(name: name.name, version: name.tag.isEmpty || name.tag == "latest" ? nil : name.tag)
    }

    /// Asks for images and, unless detached, waits for them; throws `import.failed` when one cannot be had.
    func fetch(_ wishes: [ImportWish], detach: Bool, json: Bool) async throws {
        var jobs: [JobRecord] = []
        for wish in wishes { jobs.append(try await client.post("/api/v1/imports/fetch", wish)) }
        try await follow(jobs, detach: detach, json: json)
    }

    /// Shows jobs and, unless detached, waits for them; throws `import.failed` when one fails.
    func follow(_ jobs: [JobRecord], detach: Bool, json: Bool) async throws {
        var jobs = jobs
        if !detach {
            for index in jobs.indices { jobs[index] = try await JobFollower(client: client, quiet: quiet).follow(jobs[index].id).job }
        } else if !json {
            for job in jobs { Console.print("\(job.id)  \(job.title)") }
        }
        if json { try Console.json(jobs) }
        let failed = jobs.filter { $0.state == .failed || $0.state == .cancelled }
        guard failed.isEmpty else {
            throw FarmError("import.failed", .failed, "\(failed.count) of \(jobs.count) images could not be taken in")
        }
    }

    /// Takes in an image that a site wants and no channel has.
    ///
    /// - Parameter problem: what the site was told, which is thrown with a hint when the farm cannot be asked.
    /// - Returns: what to ask the channel for then, or `nil` where no catalogue has it either.
    func supply(_ wish: ImportWish, orElse problem: FarmError) async throws -> ReleaseWish? {
        let job: JobRecord
        do { job = try await client.post("/api/v1/imports/fetch", wish) } catch let error as FarmError {
            if error.code == "import.unknown" { return nil }
            throw FarmError(
                problem.code, problem.category, problem.message,
                hint: "a catalogue of the farm may have it, but the farm could not be asked: \(error.message)")
        }
        let ended = try await JobFollower(client: client, quiet: quiet).follow(job.id).job
        guard ended.state == .succeeded else {
            throw FarmError(
                "import.failed", .failed, "\(wish.release.title) could not be taken in: \(ended.failure?.message ?? ended.state.rawValue)",
                hint: "sciferry logs \(ended.id) tells more")
        }
        return ReleaseWish(name: wish.release.name, version: ended.version)
    }

    /// Waits a minute for what the first region has and the site's region may not have yet.
    func appears<Value>(_ body: () async throws -> Value) async throws -> Value {
        let end = Timestamp.now.adding(seconds: 60)
        while true {
            do { return try await body() } catch let error as FarmError
                where ["channel.absent", "channel.target"].contains(error.code) && .now < end
            {
                try await Task.sleep(for: .seconds(1))
            }
        }
    }
}
