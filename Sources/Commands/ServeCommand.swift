import ArgumentParser
import FarmModel
import Logging
import PlainAccess
import SiteDelivery

/// Offers images as ordinary files.
struct ServeCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "serve", abstract: "Offer every image of the site's channel as an ordinary file over HTTP.",
        discussion: """
            Files are put together from the regions' chunks while they are sent; nothing is kept but a cache in memory. Ranges, HEAD, ETag and
            conditional requests work, so downloads can be resumed, split and cached.
            Example:
              sciferry serve --site /software --port 8080
              singularity pull http://localhost:8080/images/fsl/6.0.7/fsl_6.0.7_x86_64.sif
            """)

    @OptionGroup var farm: FarmOptions
    @OptionGroup var site: SiteOptions
    @Option(help: "The address to listen on.") var host = "127.0.0.1"
    @Option(help: "The port; 0 takes a free one.") var port = 8080

    func run() async throws {
        try await reporting {
            let site = try await SiteAccess.open(site, farm: farm)
            var logger = Logger(label: "serve")
            logger.logLevel = .notice
            let library = ImageLibrary(try SiteAccess.pull(site), logger: logger)
            let images = try await library.all(now: .now)
            let (host, count) = (host, images.count)
            try await ImageService(library, logger: logger).run(host: host, port: port) { port in
                Console.print("\(count) images at http://\(host.contains(":") ? "[\(host)]" : host):\(port)/")
            }
        }
    }
}
