import ArgumentParser
import Attestation
import CoordinatorCore
import FarmModel
import Foundation
import SiteDelivery
import SystemIO

/// The farm's keys and who vouches for them.
struct TrustCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "trust", abstract: "See, renew and change the keys that readers trust.",
        discussion: """
            An offline root key signs the key of images and the key of channels (docs/formats/channel.md).
            Examples:
              sciferry trust show
              sciferry trust renew --root-key /media/usb/root.key
            """,
        subcommands: [TrustShowCommand.self, TrustRenewCommand.self, TrustTakeOverCommand.self])
}

struct TrustShowCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "show", abstract: "Show whose signatures a farm's home, or a site, believes.",
        discussion: "Example:\n  sciferry trust show --site /srv/software")

    @OptionGroup var homeOptions: HomeOptions
    @Option(help: "A site, instead of the farm's home.") var site: String?
    @Flag(help: "Print JSON.") var json = false

    func run() async throws {
        try await reporting {
            let root = try site.map { try Site($0).trust().root } ?? FarmKeys(homeOptions.farmHome).root
            if json { return try Console.json(root) }
            Console.print("farm \(root.farm.printable()), root \(root.version), until \(Console.date(root.expiresAt))")
            let rows =
                [("root", root.rootKeys), ("image", root.imageKeys), ("channel", root.channelKeys)].flatMap { kind, keys in
                    keys.map { [kind, $0.keyID, $0.text] }
                }
            Console.table(["SIGNS", "KEY", "PUBLIC KEY"], rows)
            if root.threshold > 1 { Console.print("\(root.threshold) root keys must sign") }
        }
    }
}

struct TrustRenewCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "renew", abstract: "Sign the next root: for another year, and with other keys where asked.",
        discussion: """
            Sites walk from the root that they know to the newest. The coordinator takes the new one when it starts again. An old image
            key stays for what it has signed, unless it is revoked; an old channel key goes at once.
            Examples:
              sciferry trust renew --root-key /media/usb/root.key --rotate channel
              sciferry trust renew --root-key old.key --new-root new.key
              sciferry trust renew --root-key root.key --rotate image --revoke SHA256:0123456789abcdef
            """)

    @OptionGroup var homeOptions: HomeOptions
    @Option(help: "A present root key; may be repeated.", completion: .file()) var rootKey: [String]
    @Option(help: "image or channel: make a new key; may be repeated.") var rotate: [String] = []
    @Option(
        help: "A file that does not exist: a new root key is made there and replaces the old ones; may be repeated.", completion: .file())
    var newRoot: [String] = []
    @Option(help: "How many of the new root keys must sign.") var threshold: Int?
    @Option(help: "The name of an image key that is in other hands; what it signed is refused then. May be repeated.")
    var revoke: [String] = []
    @Option(help: "For how many days.") var days = FarmKeys.days

    func validate() throws {
        guard !rootKey.isEmpty else { throw ValidationError("give the root key with --root-key") }
        guard rotate.allSatisfy({ ["image", "channel"].contains($0) }) else { throw ValidationError("--rotate is image or channel") }
        guard days >= 1, days <= 3650 else { throw ValidationError("--days is 1 to 3650") }
    }

    func run() async throws {
        try await reporting {
            let home = homeOptions.farmHome
            let keys = try FarmKeys(home)
            var changes = FarmKeys.Renewal()
            (changes.image, changes.channel) = (rotate.contains("image"), rotate.contains("channel"))
            (changes.threshold, changes.revoked) = (threshold, Set(revoke))
            if let unknown = revoke.first(where: { name in !keys.root.imageKeys.contains { $0.keyID == name } }) {
                throw FarmError("root.keys", .usage, "the root names no image key \(unknown)", hint: "sciferry trust show lists them")
            }
            var signers = try rootKey.map(KeyFile.signing)
            guard Set(newRoot.map(Disk.absolute)).count == newRoot.count else {
                throw FarmError("file.exists", .usage, "two new root keys would be written to one file", hint: "name a file for each")
            }
            for path in newRoot {
                guard !Disk.exists(path) else { throw FarmError("file.exists", .conflict, "\(path) exists", hint: "name a new file") }
            }
            let new = try newRoot.map { path in
                let key = try SigningKey.generate()
                try key.write(path)
                return key
            }
            if !new.isEmpty { changes.rootKeys = new.map(\.verifier) }
            signers += new
            let renewed: FarmKeys
            do { renewed = try keys.renewed(home, by: signers, changes, days: days, now: .now) } catch {
                // As long as no root names them they are of no use.
                if !Disk.exists("\(home.roots)/\(keys.root.version + 1).json") { for path in newRoot { try? Disk.remove(path) } }
                throw error
            }
            Console.print(
                "root \(renewed.root.version) counts until \(Console.date(renewed.root.expiresAt)); restart the coordinator to publish it")
        }
    }
}

struct TrustTakeOverCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "take-over", abstract: "Have this home's coordinator go on from what the regions show, and shut out any other.",
        discussion: """
            For a home that was restored from a backup or moved. The next start continues from the newest channel of any region, in a new
            epoch: what it had released stays, and a coordinator of an older epoch ends when it next publishes.
            Example:
              sciferry trust take-over && sciferry up
            """)

    @OptionGroup var homeOptions: HomeOptions

    func run() async throws {
        try await reporting {
            let home = homeOptions.farmHome
            _ = try FarmKeys(home)
            try Disk.replace(home.takeOver, with: [])
            Console.print("the next start of the coordinator takes the farm over")
        }
    }
}
