import UnixSignals
package import CoordinatorCore
import FarmIdentity
import FarmLink
import FarmModel
import HTTPTransport
package import Logging
import NIOPosix
import PlainAccess
import SiteDelivery
import ServiceLifecycle

/// The whole coordinator as one service: link, API and background work, ended together.
package struct CoordinatorService: Sendable {
    private let coordinator: Coordinator
    private let logger: Logger

    /// Opens the home; throws what `Coordinator` throws.
    package init(home: FarmHome, logger: Logger) throws {
        coordinator = try Coordinator(home: home, client: HTTPClient(), logger: logger)
        self.logger = logger
    }

    /// Serves until SIGTERM or SIGINT.
    package func run() async throws {
        let group = ServiceGroup(
            configuration: .init(
                services: [
                    .init(service: Serving(coordinator: coordinator, logger: logger), successTerminationBehavior: .gracefullyShutdownGroup)
                ],
                gracefulShutdownSignals: [.sigterm, .sigint], logger: logger))
        try await group.run()
    }
}

private struct Serving: Service {
    let coordinator: Coordinator
    let logger: Logger

    func run() async throws {
        let configuration = coordinator.configuration
        let hosts = Array(Set([configuration.advertise, "127.0.0.1", "localhost"])).sorted()
        let pair = try KeyAndRequest.generate(commonName: "coordinator")
        // A year: the coordinator certifies itself anew at every start.
        let leaf = try coordinator.authority.issue(
            request: pair.request, identity: .coordinator, hosts: hosts, now: .now, lifetime: 365 * 86400)
        let credentials = LinkCredentials(
            certificatePEM: leaf.pem, keyPEM: pair.keyPEM, authorityPEM: coordinator.authority.pem)
        let server = LinkServer(
            .init(host: configuration.linkHost, port: configuration.linkPort, silenceSeconds: Int64(max(3, configuration.silenceSeconds))),
            context: try credentials.serverContext(), delegate: WorkerDesk(coordinator),
            group: MultiThreadedEventLoopGroup.singleton, logger: logger)
        let api = FarmAPI(coordinator, logger: logger)
        let ports = PortBoard()
        try await cancelWhenGracefulShutdown {
            try await withThrowingTaskGroup(of: Void.self) { tasks in
                tasks.addTask { try await server.run { await ports.set(link: $0) } }
                tasks.addTask {
                    try await api.run(
                        host: configuration.apiHost, port: configuration.apiPort, certificatePEM: leaf.pem,
                        keyPEM: pair.keyPEM
                    ) { await ports.set(api: $0) }
                }
                tasks.addTask {
                    let (link, api) = try await ports.both()
                    try await coordinator.listening(
                        link: "\(configuration.advertise):\(link)", api: "https://\(configuration.advertise):\(api)")
                    logger.notice(
                        "coordinator ready",
                        metadata: ["link": "\(configuration.advertise):\(link)", "api": "https://\(configuration.advertise):\(api)"])
                    try await coordinator.run()
                }
                if let (host, port) = configuration.imageEndpoint {
                    tasks.addTask { try await offerImages(host, port) }
                }
                defer { tasks.cancelAll() }
                do { try await tasks.next() } catch is CancellationError {}
            }
        }
    }
}

extension Serving {
    /// Offers what the channel has, as any site sees it.
    private func offerImages(_ host: String, _ port: Int) async throws {
        let configuration = coordinator.configuration
        let site = try Site.create(
            coordinator.home.readingSite,
            SiteConfiguration(
                farm: configuration.farm, channel: configuration.channel, regions: configuration.regions.map(\.bucket),
                root: coordinator.root))
        let library = ImageLibrary(try SitePull(site: site, regions: coordinator.regions), logger: logger)
        try await ImageService(library, logger: logger).run(host: host, port: port) { port in
            logger.notice("images are offered", metadata: ["address": "http://\(host):\(port)/"])
        }
    }
}

/// Waits until both listeners know their ports.
private actor PortBoard {
    private var link: Int?
    private var api: Int?

    func set(link: Int) { self.link = link }
    func set(api: Int) { self.api = api }

    func both() async throws -> (link: Int, api: Int) {
        while true {
            if let link, let api { return (link, api) }
            try await Task.sleep(for: .milliseconds(10))
        }
    }
}
