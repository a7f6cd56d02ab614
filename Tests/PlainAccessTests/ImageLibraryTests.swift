import Attestation
import FarmModel
import Logging
import ObjectStorage
import PlainAccess
import SiteDelivery
import Support
import Testing

@Suite struct ImageLibraryTests {
    /// What the channel said last counts while it cannot be read, and no longer than it says itself.
    @Test func anExpiredChannelIsServedByNobody() async throws {
        let scratch = try Scratch()
        let farm = try TrustedFarm()
        let site = try Site.create(
            "\(scratch.path)/site", SiteConfiguration(farm: "f", channel: "main", regions: [], root: farm.root))
        let store = MemoryStore(name: "memory:a")
        let channel = ReleaseChannel(
            farm: "f", name: "main", version: 1, issuedAt: Timestamp(seconds: 0), expiresAt: Timestamp(seconds: 1000), entries: [])
        let document = try CanonicalJSON.encode(try Envelope.sign(channel, type: PayloadType.channel, with: farm.channel))
        let library = ImageLibrary(try SitePull(site: site, regions: [store]), logger: Logger(label: "test"))
        func look(_ second: Int64) async throws -> Int { try await library.all(now: Timestamp(seconds: second)).count }

        // Before anything was released there is nothing, which is no fault.
        #expect(try await look(800) == 0)
        try await store.put("channels/main.json", document)
        #expect(try await look(900) == 0)
        try await store.delete("channels/main.json")
        for second: Int64 in [905, 920, 995] { #expect(try await look(second) == 0) }
        for second: Int64 in [1001, 1002] { await #expect(throws: FarmError.self, "\(second)") { try await look(second) } }
    }
}
