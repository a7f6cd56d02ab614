import Foundation
import ProcessRunner
import Support
import Testing

/// The arrows of docs/architecture.md. A room may use any room of a lower layer, and within its layer those named here.
@Suite struct ArrowTests {
    private static let layers: [String: Int] = [
        "CCurl": 0, "CDigests": 0, "CLinux": 0, "CSquashfs": 0, "CZlib": 0, "CZstd": 0, "CZydis": 0,
        "FarmModel": 1, "HTTPTransport": 1, "Microarchitecture": 1, "Observability": 1, "SingularityImage": 1,
        "SystemIO": 1, "TemplateEngine": 1, "Zstandard": 1,
        "Attestation": 2, "FarmIdentity": 2, "FarmMessages": 2, "ISAProof": 2, "ImageCatalogues": 2, "ObjectStorage": 2, "ProcessRunner": 2,
        "Recipes": 2,
        "Registry": 2,
        "TestSuites": 2, "Upstream": 2,
        "BucketSync": 3, "ChunkStore": 3, "FarmWire": 3, "ImageAssembly": 3,
        "FarmLink": 4, "FileStore": 4, "ImageTesting": 4, "SiteDelivery": 4,
        "CoordinatorCore": 5, "CoordinatorWeb": 5, "WorkerCore": 5, "PlainAccess": 5, "SitePolicy": 5, "Commands": 5,
        "sciferry": 6, "sciferry-coordinator": 6, "sciferry-worker": 6,
        "sciferry-bench-scheduler": 6, "sciferry-bench-fleet": 6, "sciferry-bench-index": 6, "sciferry-bench-sites": 6,
    ]
    private static let beside: Set<String> = [
        "HTTPTransport>FarmModel", "HTTPTransport>SystemIO", "Observability>FarmModel", "SingularityImage>FarmModel",
        "SingularityImage>SystemIO",
        "SystemIO>FarmModel", "TemplateEngine>FarmModel", "Zstandard>FarmModel", "CoordinatorWeb>CoordinatorCore",
        "CoordinatorWeb>PlainAccess",
        "Upstream>Registry", "Recipes>TestSuites", "ImageTesting>SiteDelivery", "Commands>CoordinatorCore", "Commands>WorkerCore",
        "Commands>PlainAccess", "Commands>SitePolicy",
    ]
    /// Packages with a price: the worker must stay free of YAML and of the database.
    private static let notInWorker: Set<String> = ["Recipes", "CoordinatorCore", "Yams", "GRDB", "TemplateEngine"]

    private struct Package: Decodable {
        struct Target: Decodable {
            var name: String
            var type: String
            var dependencies: [[String: [Part?]]]
        }
        /// A dependency is written as a list whose first text is its name.
        enum Part: Decodable {
            case text(String)
            case other
            init(from decoder: any Decoder) throws {
                self = (try? decoder.singleValueContainer().decode(String.self)).map { .text($0) } ?? .other
            }
        }
        var targets: [Target]
    }

    private func arrows() async throws -> [String: [String]] {
        let text = try await ProcessRunner.require(
            Command("swift", ["package", "--scratch-path", "/tmp/sciferry-arrows", "dump-package"], directory: Repository.root))
        let start = try #require(text.firstIndex(of: "{"))
        let package = try JSONDecoder().decode(Package.self, from: Data(text[start...].utf8))
        return Dictionary(
            uniqueKeysWithValues: package.targets.filter { $0.type != "test" && !["FuzzTargets", "Support"].contains($0.name) }.map {
                target in
                (
                    target.name,
                    target.dependencies.compactMap { entry -> String? in
                        guard case .text(let name)?? = entry.values.first?.first else { return nil }
                        return name
                    }
                )
            })
    }

    @Test(.timeLimit(.minutes(2))) func everyArrowPointsDown() async throws {
        let arrows = try await arrows()
        #expect(Set(arrows.keys) == Set(Self.layers.keys))
        for (room, uses) in arrows {
            for used in uses {
                guard let from = Self.layers[room], let to = Self.layers[used] else { continue }
                #expect(to < from || Self.beside.contains("\(room)>\(used)"), "\(room) must not use \(used)")
            }
        }
    }

    @Test(.timeLimit(.minutes(2))) func theWorkerReadsNoYAML() async throws {
        let arrows = try await arrows()
        var reached: Set<String> = []
        var waiting = ["sciferry-worker"]
        while let room = waiting.popLast() {
            for used in arrows[room] ?? [] where reached.insert(used).inserted { waiting.append(used) }
        }
        #expect(reached.isDisjoint(with: Self.notInWorker))
        #expect(reached.contains("ImageAssembly"))
    }
}
