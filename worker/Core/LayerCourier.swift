package import FarmModel
package import HTTPTransport
import ImageAssembly
package import Logging
import SystemIO

/// Takes layers of builds that are done to the farm, one build after the other, beside whatever else the worker does.
package actor LayerCourier {
    /// A build whose layers the engine holds under a name.
    package struct Delivery: Sendable {
        package var attempt: AttemptID
        package var tag: String
        package var recipe: String
        package var target: String
        package var architecture: String
        package var builder: EngineBuilder
        /// The engine's name of the base image.
        package var base: String
        /// Of the classic builder, which leaves layers out that would be empty: each instruction of the last stage that was carried out, in
        /// order, and whether it is one of the steps. The image's history has an entry for each.
        package var entries: [Bool]?
        /// What the steps that made layers stand for, and the seconds that they took.
        package var steps: [(identity: UInt64, seconds: Double)]
    }

    private let home: WorkerHome
    private let configuration: WorkerConfiguration
    private let authority: [UInt8]
    private let line: FarmLine
    private let client: HTTPClient
    private let logger: Logger
    private var waiting: [Delivery] = []
    private var isBusy = false

    /// Bytes that must be free for layers to be packed.
    private static let reserve: Int64 = 4 << 30

    /// Builds that wait; of more than these the oldest are left out.
    private static let mostWaiting = 16

    package init(
        home: WorkerHome, configuration: WorkerConfiguration, authority: [UInt8], line: FarmLine, client: HTTPClient, logger: Logger
    ) {
        self.home = home
        self.configuration = configuration
        self.authority = authority
        self.line = line
        self.client = client
        self.logger = logger
    }

    private nonisolated var engine: any ContainerEngine {
        configuration.containerEngine(home: home, marks: ["SCIFERRY_WORKER": home.root])
    }

    /// Takes an order; returns at once.
    package func take(_ delivery: Delivery) async {
        waiting.append(delivery)
        if waiting.count > LayerCourier.mostWaiting { await engine.untag(waiting.removeFirst().tag) }
        guard !isBusy else { return }
        isBusy = true
        Task { await work() }
    }

    private func work() async {
        while !waiting.isEmpty {
            let delivery = waiting.removeFirst()
            let place = "\(home.layers)/\(delivery.attempt)"
            do {
                let sent = try await deliver(delivery, place)
                logger.info(
                    "layers delivered",
                    metadata: ["attempt.id": "\(delivery.attempt)", "layers": "\(sent.layers)", "bytes": "\(sent.bytes)"])
            } catch {
                // The farm has fewer layers than it could; nothing else hangs on it.
                logger.warning("layers not delivered", metadata: ["attempt.id": "\(delivery.attempt)", "reason": "\(error)"])
            }
            try? Disk.remove(place)
            await engine.untag(delivery.tag)
        }
        isBusy = false
    }

    /// - Returns: what went over the line.
    private func deliver(_ delivery: Delivery, _ place: String) async throws -> (layers: Int, bytes: Int64) {
        guard let root = try await engine.layerStore() else { return (0, 0) }
        let base = try await engine.layerNames(of: delivery.base)
        let identifier = try await engine.identifier(of: delivery.tag)
        let image = try await Blocking.run { try LayeredImage.engine(root: root, identifier: identifier) }
        let contents = image.configuration.diffIDs
        let text = String(decoding: image.configuration.bytes, as: UTF8.self)
        let solid = try delivery.entries.map { try CacheConfiguration.madeLayers(text, entries: $0) }
        let made = solid ?? delivery.steps.map { _ in true }
        guard Array(contents.prefix(base.count)) == base, made.count == delivery.steps.count,
            contents.count - base.count == made.count(where: \.self)
        else {
            throw FarmError(
                "layer.count", .failed,
                "the image has \(contents.count) layers, \(base.count) of its base, and its build \(delivery.steps.count) steps")
        }
        let own = Array(contents.dropFirst(base.count))
        let missing = Set(try await LayerOffer.ask(line, delivery.attempt, builder: delivery.builder, layers: own).missing)
        let uploader = Uploader(
            line: line, client: client, attempt: delivery.attempt, api: configuration.api, authority: authority,
            bytesPerSecond: Int64(configuration.layerMegabytesPerSecond * 1e6), say: { _ in })
        try Disk.makeDirectory(place)
        // Builds need their room more.
        guard try Disk.freeBytes(at: place) > LayerCourier.reserve else {
            throw FarmError("disk.room", .unavailable, "less than \(LayerCourier.reserve >> 30) GiB are free")
        }
        var sent: (layers: Int, bytes: Int64) = (0, 0)
        var layers: [LayerSet.Layer] = []
        var index = 0
        for (step, isLayer) in zip(delivery.steps, made) {
            guard isLayer else {
                layers.append(LayerSet.Layer(identity: step.identity, seconds: step.seconds))
                continue
            }
            let (content, path) = (own[index], "\(place)/\(index)")
            let number = base.count + index
            if missing.contains(content), !own[..<index].contains(content) {
                let packed = try await Blocking.interruptible { try image.pack(number, to: path, isOver: $0) }.packed
                _ = try await uploader.send(
                    .file(path: path, offset: 0, count: packed.size), kind: "layer", digest: packed.digest, size: packed.size)
                try Disk.remove(path)
                sent.layers += 1
                sent.bytes += packed.size
            }
            layers.append(LayerSet.Layer(identity: step.identity, content: content, size: 0, seconds: step.seconds))
            index += 1
        }
        let set = LayerSet(
            recipe: delivery.recipe, target: delivery.target, architecture: delivery.architecture, base: base, layers: layers,
            configuration: text, builder: delivery.builder == .buildkit ? nil : delivery.builder.rawValue, madeAt: .now)
        let bytes = try CanonicalJSON.encode(set)
        guard bytes.count <= LayerSet.most else { throw FarmError("layer.set", .failed, "what is to be said of the layers is too long") }
        _ = try await uploader.send(.bytes(bytes), kind: "layers", digest: Digest(hashing: bytes), size: Int64(bytes.count))
        return sent
    }
}
