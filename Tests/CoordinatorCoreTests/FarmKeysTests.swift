import Attestation
import CoordinatorCore
import FarmModel
import Support
import SystemIO
import Testing

@Suite struct FarmKeysTests {
    private let scratch: Scratch
    private let home: FarmHome
    private let keys: FarmKeys
    private let rootKey: SigningKey
    private let now = Timestamp(seconds: 1000)

    init() throws {
        scratch = try Scratch()
        home = FarmHome(scratch.path)
        keys = try FarmKeys.create(home, farm: "f", now: now)
        rootKey = try SigningKey(file: home.rootKey)
    }

    @Test func keysAreReplacedInOneStep() throws {
        var changes = FarmKeys.Renewal()
        (changes.image, changes.channel) = (true, true)
        let renewed = try keys.renewed(home, by: [rootKey], changes, now: now)
        #expect(renewed.root.imageKeys == [renewed.image.verifier, keys.image.verifier])
        #expect(renewed.root.channelKeys == [renewed.channel.verifier] && renewed.channel.verifier != keys.channel.verifier)
        #expect(try FarmKeys(home).root == renewed.root && renewed.roots.count == 2)
        #expect(try Disk.list(home.identity).filter { $0.hasSuffix(".next") }.isEmpty)
        #expect(Disk.exists(home.rootKey))
    }

    /// Killed before the root is written it has not happened, killed behind it has.
    @Test func aRenewalThatWasKilledHasHappenedOrNot() throws {
        let next = try SigningKey.generate()
        try next.write("\(home.channelKey).next")
        #expect(try FarmKeys(home).channel.verifier == keys.channel.verifier)
        var root = keys.root
        (root.version, root.channelKeys) = (2, [next.verifier])
        try Disk.replace("\(home.roots)/2.json", with: try root.signed(by: [rootKey], after: keys.root))
        #expect(try FarmKeys(home).channel.verifier == next.verifier)
        #expect(try FarmKeys(home).channel.verifier == next.verifier && !Disk.exists("\(home.channelKey).next"))
    }

    @Test func whatReadersWouldRefuseIsNotWritten() throws {
        var changes = FarmKeys.Renewal()
        changes.channel = true
        #expect(throws: FarmError.self) { try keys.renewed(home, by: [], changes, now: now) }
        #expect(throws: FarmError.self) { try keys.renewed(home, by: [keys.image], changes, now: now) }
        changes = FarmKeys.Renewal()
        changes.revoked = [keys.image.verifier.keyID]
        #expect(throws: FarmError.self) { try keys.renewed(home, by: [rootKey], changes, now: now) }
        #expect(try FarmKeys(home).root == keys.root)
        // A key that no root names signs nothing.
        try SigningKey.generate().write(home.releaseKey)
        #expect { try FarmKeys(home) } throws: { ($0 as? FarmError)?.code == "root.keys" }
        try Disk.remove("\(home.roots)/1.json")
        #expect { try FarmKeys(home) } throws: { ($0 as? FarmError)?.code == "root.absent" }
    }

    @Test func aStolenKeyIsRevoked() throws {
        var changes = FarmKeys.Renewal()
        (changes.image, changes.revoked) = (true, [keys.image.verifier.keyID])
        let renewed = try keys.renewed(home, by: [rootKey], changes, now: now)
        #expect(renewed.root.imageKeys == [renewed.image.verifier])
    }
}
