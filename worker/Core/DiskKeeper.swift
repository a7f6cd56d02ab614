package import FarmModel
package import Logging
import ProcessRunner
import SystemIO

/// Sees to it that builds find room on the engine's disk: what earlier ones left there goes, that of least worth for a byte first.
package actor DiskKeeper {
    /// What the engine's disk holds.
    package struct Holdings: Sendable, Hashable {
        package var uses: [DiskUse] = []
        /// Bytes that would go for a build that needs them.
        package var reclaimable: Int64 = 0
    }

    private let home: WorkerHome
    private let configuration: WorkerConfiguration
    private let notes: LayerNotes
    private let logger: Logger
    /// Images of builds that go on, by how many need them.
    private var needed: [String: Int] = [:]

    private let inputs: String

    /// - Parameter inputs: where what builds fetch is kept.
    package init(home: WorkerHome, configuration: WorkerConfiguration, notes: LayerNotes, inputs: String, logger: Logger) {
        self.inputs = inputs
        self.home = home
        self.configuration = configuration
        self.notes = notes
        self.logger = logger
    }

    private nonisolated var engine: any ContainerEngine {
        configuration.containerEngine(home: home, marks: ["SCIFERRY_WORKER": home.root])
    }

    /// Looks at what is there.
    package func survey() async -> Holdings {
        guard let usage = try? await engine.usage() else { return Holdings() }
        let (home, inputs) = (home, inputs)
        let others = try? await Blocking.run {
            [("images of failed tests", home.kept), ("builds that go on", home.attempts), ("what builds fetch", inputs)].map { name, path in
                DiskUse(what: name, bytes: (try? Disk.treeSize(path)) ?? 0)
            }
        }
        let own = (try? await engine.ownImages()) ?? []
        let mine = own.isEmpty ? 0 : usage.images
        let uses = [DiskUse(what: "images", bytes: usage.images), DiskUse(what: "layers of builds", bytes: usage.cache)] + (others ?? [])
        // Builder and images share layers, each counting them; what goes on needs something of it.
        let share = needed.isEmpty ? 0.8 : 0.5
        return Holdings(
            uses: uses.filter { $0.bytes > 0 }, reclaimable: configuration.evicts ? Int64(Double(max(mine, usage.cache)) * share) : 0)
    }

    /// A build needs these images until `release`.
    func hold(_ images: [String]) { for image in images { needed[image, default: 0] += 1 } }

    func release(_ images: [String]) {
        for image in images {
            needed[image, default: 1] -= 1
            if needed[image] == 0 { needed[image] = nil }
        }
    }

    /// Frees what a build wants, if it can be had. Throws `disk.room` when it cannot.
    ///
    /// - Parameters:
    ///   - wanted: bytes that shall be free.
    ///   - root: the engine's directory.
    ///   - own: images that the build itself holds.
    /// - Returns: whether anything went, which may have been of what the build's own steps had left.
    func makeRoom(
        _ wanted: Int64, at root: String, own: [String], say: @Sendable (String) async -> Void
    ) async throws -> Bool {
        var free = try Disk.freeBytes(at: root)
        guard free < wanted, configuration.evicts else { return false }
        // What others build stands on layers without a name, which some builders do not keep from being taken away.
        let isAlone = needed.allSatisfy { $0.value == 1 && own.contains($0.key) }
        let before = free
        var gone: [String] = []
        for image in notes.memory.leastWorth(try await engine.ownImages(), now: .now) where needed[image] == nil {
            guard free < wanted else { break }
            await engine.untag(image)
            gone.append(image)
            // The builder keeps what its notes lead to until it is told how little it may keep.
            let cache = try await engine.usage().cache
            try await engine.prune(keeping: max(0, cache - (wanted - free) * 5 / 4), isAlone: isAlone)
            free = try Disk.freeBytes(at: root)
        }
        if free < wanted {
            try await engine.prune(keeping: 0, isAlone: isAlone)
            free = try Disk.freeBytes(at: root)
        }
        // Which steps of what builder are left nobody tells: it is found out by building.
        notes.change { $0.forget(gone) }
        logger.notice(
            "room made", metadata: ["images": "\(gone.count)", "bytes": "\(free - before)", "free": "\(free)", "wanted": "\(wanted)"])
        await say("\(gone.count) images of earlier builds and what the builder had kept of them made room: \((free - before) >> 20) MiB")
        guard free >= wanted else {
            throw FarmError(
                "disk.room", .unavailable,
                "the worker's disk has \(free >> 20) MiB free with all that could go gone, and the build wants \(wanted >> 20)",
                hint: "give the engine a larger disk")
        }
        return true
    }
}
