// swift-tools-version: 6.2
//
// Rooms stand in the order of their layers (docs/architecture.md); inside a layer they are alphabetical. An arrow
// that points up, or sideways without being named in docs/architecture.md, fails ArchitectureTests.

import PackageDescription

let settings: [SwiftSetting] = [
    .swiftLanguageMode(.v6),
    .enableUpcomingFeature("ExistentialAny"),
    .enableUpcomingFeature("InternalImportsByDefault"),
    .enableUpcomingFeature("MemberImportVisibility"),
    .treatAllWarnings(as: .error),
]

/// A room: a library target with the house's settings.
func room(
    _ name: String, path: String? = nil, _ dependencies: [Target.Dependency] = [], linker: [LinkerSetting] = [],
    resources: [Resource]? = nil, extra: [SwiftSetting] = []
) -> Target {
    .target(
        name: name, dependencies: dependencies, path: path ?? "Sources/\(name)", resources: resources, swiftSettings: settings + extra,
        linkerSettings: linker)
}

/// The tests of one room.
func tests(_ name: String, _ dependencies: [Target.Dependency], exclude: [String] = []) -> Target {
    .testTarget(
        name: "\(name)Tests", dependencies: [.byName(name: name)] + dependencies, path: "Tests/\(name)Tests",
        exclude: exclude, swiftSettings: settings)
}

let nioCore: Target.Dependency = .product(name: "NIOCore", package: "swift-nio")
let nioPosix: Target.Dependency = .product(name: "NIOPosix", package: "swift-nio")
let nioTLS: Target.Dependency = .product(name: "NIOTLS", package: "swift-nio")
let nioSSL: Target.Dependency = .product(name: "NIOSSL", package: "swift-nio-ssl")
let crypto: Target.Dependency = .product(name: "Crypto", package: "swift-crypto")
let cryptoExtras: Target.Dependency = .product(name: "CryptoExtras", package: "swift-crypto")
let x509: Target.Dependency = .product(name: "X509", package: "swift-certificates")
let asn1: Target.Dependency = .product(name: "SwiftASN1", package: "swift-asn1")
let protobuf: Target.Dependency = .product(name: "SwiftProtobuf", package: "swift-protobuf")
let logging: Target.Dependency = .product(name: "Logging", package: "swift-log")
let grdb: Target.Dependency = .product(name: "GRDB", package: "GRDB.swift")
let yams: Target.Dependency = .product(name: "Yams", package: "Yams")
let hummingbird: Target.Dependency = .product(name: "Hummingbird", package: "hummingbird")
let hummingbirdTLS: Target.Dependency = .product(name: "HummingbirdTLS", package: "hummingbird")
let httpTypes: Target.Dependency = .product(name: "HTTPTypes", package: "swift-http-types")
let lifecycle: Target.Dependency = .product(name: "ServiceLifecycle", package: "swift-service-lifecycle")
let subprocess: Target.Dependency = .product(name: "Subprocess", package: "swift-subprocess")
let systemPackage: Target.Dependency = .product(name: "SystemPackage", package: "swift-system")
let argumentParser: Target.Dependency = .product(name: "ArgumentParser", package: "swift-argument-parser")

let package = Package(
    name: "sciferry",
    dependencies: [
        .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.2"),
        .package(url: "https://github.com/apple/swift-asn1", from: "1.7.4"),
        .package(url: "https://github.com/apple/swift-certificates", from: "1.21.1"),
        .package(url: "https://github.com/apple/swift-crypto", from: "4.5.2"),
        .package(url: "https://github.com/apple/swift-http-types", from: "1.8.0"),
        .package(url: "https://github.com/apple/swift-log", from: "1.16.2"),
        .package(url: "https://github.com/apple/swift-nio", from: "2.101.2"),
        .package(url: "https://github.com/apple/swift-nio-ssl", from: "2.37.6"),
        .package(url: "https://github.com/apple/swift-protobuf", from: "1.39.0"),
        .package(url: "https://github.com/apple/swift-system", from: "1.8.1"),
        .package(url: "https://github.com/groue/GRDB.swift", from: "7.10.0"),
        .package(url: "https://github.com/hummingbird-project/hummingbird", from: "2.28.1", traits: []),
        .package(url: "https://github.com/jpsim/Yams", from: "6.2.2"),
        .package(url: "https://github.com/swift-server/swift-service-lifecycle", from: "2.13.0"),
        .package(url: "https://github.com/swiftlang/swift-subprocess", from: "1.0.2", traits: []),
    ],
    targets: [
        // Layer 0
        .target(name: "CCurl", path: "Sources/CCurl", linkerSettings: [.linkedLibrary("curl")]),
        .target(name: "CDigests", path: "Sources/CDigests", cSettings: [.unsafeFlags(["-O2"])]),
        .target(name: "CLinux", path: "Sources/CLinux"),
        .target(
            name: "CSquashfs", path: "Sources/CSquashfs",
            linkerSettings: [
                .linkedLibrary(":libsquashfs.a"), .linkedLibrary(":libzstd.a"), .linkedLibrary(":liblzma.a"),
                .linkedLibrary(":liblz4.a"), .linkedLibrary(":libz.a"),
            ]),
        // Only the headers of libzydis-dev are used here; the library is loaded when first wanted.
        .target(name: "CZydis", path: "Sources/CZydis", cSettings: [.unsafeFlags(["-O2"])]),
        // libz is linked with CSquashfs: named here too, it would stand before the library that needs it.
        .target(name: "CZlib", path: "Sources/CZlib"),
        .target(name: "CZstd", path: "Sources/CZstd", linkerSettings: [.linkedLibrary(":libzstd.a")]),
        // Layer 1
        room("FarmModel", ["CDigests", crypto]),
        room("HTTPTransport", ["CCurl", "FarmModel", "SystemIO"]),
        // Embedded, so that the programs stay single files.
        room("Microarchitecture", resources: [.embedInCode("microarchitectures.txt")]),
        room("Observability", ["FarmModel", logging]),
        room("SingularityImage", ["FarmModel", "SystemIO"]),
        room("SystemIO", ["CLinux", "FarmModel"]),
        room("TemplateEngine", ["FarmModel"]),
        room("Zstandard", ["CZstd", "FarmModel"]),
        // Layer 2
        room("Attestation", ["FarmModel", "SingularityImage", "SystemIO", crypto, cryptoExtras]),
        room("FarmIdentity", ["FarmModel", "SystemIO", asn1, crypto, x509]),
        room("ImageCatalogues", ["FarmModel", crypto]),
        room("FarmMessages", path: "protocol/Messages", ["FarmModel", protobuf]),
        // Optimised in debug builds too: tests read tens of megabytes of code.
        room(
            "ISAProof", ["CZydis", "FarmModel", "Microarchitecture"],
            extra: [.unsafeFlags(["-O"], .when(configuration: .debug))]),
        room("ObjectStorage", ["FarmModel", "HTTPTransport", "SystemIO", crypto]),
        room("ProcessRunner", ["FarmModel", "SystemIO", subprocess, systemPackage]),
        room(
            "Recipes", ["FarmModel", "Microarchitecture", "SystemIO", "TemplateEngine", "TestSuites", yams],
            resources: [.embedInCode("Templates")]),
        room("Registry", ["FarmModel", "HTTPTransport", "SystemIO"]),
        room("TestSuites", ["CZlib", "FarmModel"]),
        room("Upstream", ["FarmModel", "HTTPTransport", "Registry", "SystemIO"]),
        // Layer 3
        room("ChunkStore", ["Attestation", "FarmModel", "ObjectStorage", "SystemIO", "Zstandard"]),
        room("FarmWire", path: "protocol/Wire", ["FarmMessages", "FarmModel", nioCore, protobuf]),
        room(
            "ImageAssembly", ["CSquashfs", "CZlib", "FarmModel", "HTTPTransport", "Registry", "SingularityImage", "SystemIO", "Zstandard"]),
        room("BucketSync", ["FarmModel", "HTTPTransport", "ObjectStorage", "SystemIO"]),
        // Layer 4
        room(
            "FarmLink", path: "protocol/Link",
            ["FarmIdentity", "FarmMessages", "FarmModel", "FarmWire", logging, nioCore, nioPosix, nioSSL, nioTLS, protobuf]),
        room("FileStore", ["Attestation", "ChunkStore", "FarmModel", "ObjectStorage", "SystemIO"]),
        room(
            "ImageTesting", ["FarmModel", "ProcessRunner", "SingularityImage", "SiteDelivery", "SystemIO", "TestSuites"]),
        room(
            "SiteDelivery",
            [
                "Attestation", "BucketSync", "ChunkStore", "FarmModel", "ImageAssembly", "Microarchitecture", "ObjectStorage",
                "ProcessRunner",
                "SingularityImage", "SystemIO",
            ]),
        // Layer 5
        room(
            "CoordinatorCore", path: "coordinator/Core",
            [
                "Attestation", "ChunkStore", "FarmIdentity", "FarmLink", "FarmMessages", "FarmModel", "FileStore", "HTTPTransport",
                "ImageAssembly", "Microarchitecture", "ObjectStorage", "ProcessRunner", "Recipes", "SingularityImage", "SiteDelivery",
                "SystemIO", "TestSuites",
                "Upstream", crypto, grdb, logging, nioCore, nioPosix, nioSSL, protobuf,
            ]),
        room(
            "WorkerCore", path: "worker/Core",
            [
                "Attestation", "CLinux", "ChunkStore", "FarmIdentity", "FarmLink", "FarmMessages", "FarmModel", "FarmWire", "HTTPTransport",
                "ISAProof", "ImageAssembly", "ImageTesting", "Microarchitecture", "ObjectStorage", "ProcessRunner", "Registry",
                "SingularityImage", "SiteDelivery", "SystemIO", "TestSuites", "Upstream", logging,
                nioCore, nioPosix, nioSSL, protobuf,
            ], resources: [.embedInCode("Resources/failure-classes.txt")]),
        room(
            "CoordinatorWeb", path: "coordinator/Web",
            [
                "CoordinatorCore", "FarmIdentity", "FarmLink", "FarmModel", "HTTPTransport", "PlainAccess", "SiteDelivery", "SystemIO",
                httpTypes,
                hummingbird, hummingbirdTLS, lifecycle, logging, nioCore, nioPosix, nioSSL,
            ]),
        room(
            "Commands",
            [
                "Attestation", "BucketSync", "CLinux", "ChunkStore", "CoordinatorCore", "FarmIdentity", "FarmModel", "FileStore",
                "HTTPTransport",
                "ISAProof", "ImageAssembly", "ImageCatalogues", "ImageTesting", "Microarchitecture", "ObjectStorage", "PlainAccess",
                "ProcessRunner", "Recipes", "Registry", "SingularityImage", "SiteDelivery", "SitePolicy", "SystemIO", "TestSuites",
                "Upstream",
                "WorkerCore", argumentParser, logging,
            ]),
        room("SitePolicy", ["FarmModel", "Microarchitecture", "ObjectStorage", "Recipes", "SiteDelivery"]),
        room(
            "PlainAccess",
            ["ChunkStore", "FarmModel", "ObjectStorage", "SiteDelivery", "SystemIO", httpTypes, hummingbird, logging, nioCore]),
        // Layer 6
        .executableTarget(
            name: "sciferry-bench-scheduler", dependencies: ["CoordinatorCore", "FarmMessages", "FarmModel", "Microarchitecture"],
            path: "benchmarks/Scheduler", swiftSettings: settings),
        .executableTarget(
            name: "sciferry-bench-sites",
            dependencies: [
                "Attestation", "ChunkStore", "FarmModel", "FileStore", "HTTPTransport", "ObjectStorage", "SiteDelivery", "Support",
                "SystemIO",
            ],
            path: "benchmarks/Sites", exclude: ["farm.py", "pull_benchmark.py", "wrappers_benchmark.py", "site_benchmark.py"],
            swiftSettings: settings),
        .executableTarget(
            name: "sciferry-bench-index", dependencies: ["ChunkStore", "FarmModel", "SystemIO"], path: "benchmarks/Chunks",
            swiftSettings: settings),
        .executableTarget(
            name: "sciferry-bench-fleet",
            dependencies: [
                "FarmIdentity", "FarmLink", "FarmMessages", "FarmModel", "FarmWire", "HTTPTransport", "SystemIO", "WorkerCore", nioPosix,
                nioSSL,
            ], path: "benchmarks/Fleet", swiftSettings: settings),
        .executableTarget(
            name: "sciferry", dependencies: ["Commands", argumentParser], path: "Sources/sciferry", swiftSettings: settings),
        .executableTarget(
            name: "sciferry-coordinator",
            dependencies: [
                "CoordinatorCore", "CoordinatorWeb", "FarmModel", "Observability", "SystemIO", argumentParser, logging,
            ], path: "coordinator/Main", swiftSettings: settings),
        .executableTarget(
            name: "sciferry-worker",
            dependencies: [
                "FarmIdentity", "FarmModel", "HTTPTransport", "Observability", "SystemIO", "WorkerCore", argumentParser, lifecycle,
                logging, nioPosix,
            ], path: "worker/Main", swiftSettings: settings),
        // Tests
        .target(
            name: "Support", dependencies: ["Attestation", "FarmModel", "ObjectStorage", "SystemIO"], path: "Tests/Support",
            exclude: ["fault-proxy.py"],
            swiftSettings: settings),
        .target(
            name: "FuzzTargets",
            dependencies: [
                "Attestation", "BucketSync", "ChunkStore", "CoordinatorCore", "FarmIdentity", "FarmModel", "FarmWire", "ISAProof",
                "ImageAssembly", "ImageCatalogues", "Microarchitecture", "ObjectStorage", "Recipes", "SingularityImage", "SitePolicy",
                "Support", "SystemIO", "TemplateEngine", "TestSuites",
                "Upstream", "WorkerCore", "Zstandard", nioCore,
            ], path: "Tests/FuzzTargets", exclude: ["culprits"], swiftSettings: settings),
        .testTarget(
            name: "ArchitectureTests", dependencies: ["ProcessRunner", "Support"], path: "Tests/ArchitectureTests",
            swiftSettings: settings),
        tests("Attestation", ["FarmModel", "SingularityImage", "Support", "SystemIO"]),
        tests("BucketSync", ["FarmModel", "HTTPTransport", "ObjectStorage", "Support", "SystemIO"]),
        tests("ChunkStore", ["FarmModel", "ObjectStorage", "Support", "SystemIO", "Zstandard"]),
        tests(
            "CoordinatorCore",
            [
                "Attestation", "ChunkStore", "FarmIdentity", "FarmMessages", "FarmModel", "Microarchitecture", "ObjectStorage", "Support",
                "SystemIO", "WorkerCore", .product(name: "GRDB", package: "GRDB.swift"),
            ]),
        .testTarget(
            name: "EndToEndTests",
            dependencies: [
                "Attestation", "ChunkStore", "CoordinatorCore", "FarmIdentity", "FarmModel", "FileStore", "ProcessRunner", "Support",
                "SystemIO",
                "sciferry", "sciferry-coordinator", "sciferry-worker",
            ], path: "Tests/EndToEndTests", exclude: ["client.py", "images.py", "suite-reference.py", "suites", "torture.py"],
            swiftSettings: settings),
        tests("FarmIdentity", ["FarmModel", "Support"]),
        tests("FarmModel", []),
        tests("FileStore", ["ChunkStore", "FarmModel", "ObjectStorage", "Support", "SystemIO"]),
        tests("FarmWire", ["FarmMessages", "FarmModel", "Support", "SystemIO", nioCore]),
        tests("FuzzTargets", ["Support", "SystemIO"]),
        tests("ISAProof", ["FarmModel", "Microarchitecture", "ProcessRunner", "Support", "SystemIO"]),
        tests("ImageCatalogues", ["FarmModel"]),
        tests("ImageTesting", ["FarmModel", "ProcessRunner", "Support", "SystemIO", "TestSuites"]),
        tests("ImageAssembly", ["FarmModel", "ProcessRunner", "Support", "SystemIO"]),
        tests("Microarchitecture", ["ProcessRunner", "Support", "SystemIO"], exclude: ["cpuinfo"]),
        tests("ObjectStorage", ["FarmModel", "HTTPTransport", "ProcessRunner", "Support", "SystemIO"]),
        tests("PlainAccess", ["Attestation", "FarmModel", "ObjectStorage", "SiteDelivery", "Support", httpTypes, logging]),
        tests("ProcessRunner", ["FarmModel", "Support"]),
        tests("Recipes", ["FarmModel", "Microarchitecture", "ProcessRunner", "Support", "SystemIO"], exclude: ["collection"]),
        tests("Registry", ["FarmModel", "HTTPTransport", "Support", "SystemIO"]),
        tests("SingularityImage", ["FarmModel", "Support", "SystemIO"]),
        tests("SitePolicy", ["FarmModel", "Microarchitecture", "ObjectStorage", "SiteDelivery"]),
        tests("SiteDelivery", ["Attestation", "ChunkStore", "FarmModel", "ObjectStorage", "ProcessRunner", "Support", "SystemIO"]),
        tests("SystemIO", ["FarmModel", "Support"]),
        tests("TemplateEngine", ["FarmModel", "ProcessRunner", "Support"], exclude: ["reference.py"]),
        tests("TestSuites", ["FarmModel"]),
        tests("Upstream", ["FarmModel", "HTTPTransport", "Registry", "Support", "SystemIO"], exclude: ["answers"]),
        tests(
            "WorkerCore",
            [
                "FarmMessages", "FarmModel", "FarmWire", "ImageAssembly", "ISAProof", "Microarchitecture", "ProcessRunner", "Support",
                "SystemIO", nioCore,
            ]),
    ]
)

// libFuzzer wants everything instrumented, so scripts/fuzz builds this apart from all else.
if Context.environment["SCIFERRY_FUZZ"] != nil {
    package.targets.append(
        .executableTarget(
            name: "sciferry-fuzz", dependencies: ["FuzzTargets", "SystemIO"], path: "Tests/Fuzz",
            swiftSettings: settings))
}
