import FarmModel
import HTTPTransport
import SystemIO

/// Tries out what a bucket's service does, with some small objects that are gone afterwards.
package struct StoreTrial {
    private let store: any ObjectStore
    private let home: String
    private let base: String
    private var abilities = StoreAbilities(triedAt: .now)

    /// Where trials lie unless said otherwise.
    package static let usualPlace = "sciferry-trial/"

    /// - Parameter place: the prefix below which the trial writes; nobody else's.
    package init(_ store: any ObjectStore, in place: String = StoreTrial.usualPlace) {
        let open = (store as? S3Store).map { S3Store($0.service, bucket: $0.bucket, prefix: $0.prefix, takesAnyKey: true) }
        (self.store, home) = (open ?? store, place)
        base = "\(place)\(Nonce.hex(bytes: 6))/"
    }

    /// Runs the trial. Throws when the bucket cannot be asked or written at all; one that only reads is told.
    package mutating func run() async throws -> StoreAbilities {
        do { try await store.put(base + "a", StoreTrial.text) } catch let error as FarmError where error.code == "storage.read-only" {
            abilities.isReadOnly = true
            return abilities
        }
        do {
            try await tryReading()
            try await tryNames()
            try await tryDamage()
            try await tryCopies()
            try await tryStrangeNames()
            if let store = store as? S3Store { try await tryRequests(store) }
        } catch {
            await tidy()
            throw error
        }
        await tidy()
        return abilities
    }

    private static let text = Array("The quick brown fox jumps over the lazy dog.".utf8)
    private static let other = Array("The quick brown fox jumps over the lazy cat.".utf8)

    /// What is refused is not there; what passes by itself says nothing.
    private mutating func note(_ ability: StoreAbilities.Ability, _ body: () async throws -> Bool) async throws {
        do { abilities.found[ability] = try await body() } catch let error as FarmError where !error.category.isTransient {
            abilities.found[ability] = false
        }
    }

    private mutating func tryReading() async throws {
        let (store, base) = (store, base)
        // Written over, so that an answer of yesterday would show.
        try await store.put(base + "a", StoreTrial.other)
        try await store.put(base + "a", StoreTrial.text)
        try await note(.readsBack) {
            let head = try await store.head(base + "a")
            return try await store.get(base + "a") == StoreTrial.text && head?.size == Int64(StoreTrial.text.count)
        }
        try await note(.ranges) { try await store.get(base + "a", range: 4..<9) == Array("quick".utf8) }
        if let tag = try await store.head(base + "a")?.tag {
            abilities.found[.tagsAreMD5] = tag.lowercased() == MD5.of(StoreTrial.text).hex
        }
    }

    private mutating func tryNames() async throws {
        let (store, base) = (store, base)
        let names = ["o/a-b", "o/a.b", "o/a/b"].map { base + $0 }
        for name in names { try await store.put(name, StoreTrial.text) }
        var listed: [String] = []
        try await store.each(prefix: base + "o/") { listed += $0.map(\.key) }
        abilities.found[.listsAtOnce] = Set(listed) == Set(names)
        if Set(listed) == Set(names) { abilities.found[.byteOrder] = listed == names }
        try await note(.namesBesideFolders) {
            try await store.put(base + "n/a", StoreTrial.text)
            try await store.put(base + "n/a/b", StoreTrial.other)
            let (one, two) = (try await store.get(base + "n/a"), try await store.get(base + "n/a/b"))
            return one == StoreTrial.text && two == StoreTrial.other
        }
    }

    private mutating func tryDamage() async throws {
        let (store, base) = (store, base)
        if !(store is S3Store) { return }
        do {
            _ = try await store.write(base + "damaged", .bytes(StoreTrial.other), ObjectFacts(md5: MD5.of(StoreTrial.text)))
            abilities.found[.refusesDamage] = false
        } catch let error as FarmError where !error.category.isTransient {
            abilities.found[.refusesDamage] = try await store.head(base + "damaged") == nil
        }
        do {
            _ = try await store.write(base + "broken", .feed(size: 10) { _ in 0 }, ObjectFacts())
        } catch let error as FarmError where error.category != .denied {
            // It may not have noticed yet.
            var isThere = false
            for _ in 0..<10 where !isThere {
                try await Task.sleep(for: .milliseconds(200))
                isThere = try await store.head(base + "broken") != nil
            }
            abilities.found[.refusesBroken] = !isThere
        }
    }

    private mutating func tryCopies() async throws {
        let (store, base) = (store, base)
        guard let there = try await store.head(base + "a"), store is S3Store else { return }
        try await note(.copies) {
            guard try await store.copy(there, of: store, to: base + "copy", ObjectFacts()) != nil else { return false }
            return try await store.get(base + "copy") == StoreTrial.text
        }
        guard let store = store as? any MultipartStore else { return }
        try await note(.parts) {
            let upload = try await store.beginUpload(base + "parted", ObjectFacts())
            do {
                _ = try await store.writePart(base + "parted", upload: upload, number: 1, .bytes(StoreTrial.text), md5: nil)
                let parts = try await store.parts(base + "parted", upload: upload)
                _ = try await store.completeUpload(base + "parted", upload: upload, parts ?? [])
            } catch {
                try? await store.abortUpload(base + "parted", upload: upload)
                throw error
            }
            return try await store.get(base + "parted") == StoreTrial.text
        }
    }

    /// Whether names with empty parts, or with a slash at the end, are kept as they are.
    package mutating func keepsNames() async throws -> Bool {
        do {
            try await tryStrangeNames()
        } catch {
            await tidy()
            throw error
        }
        await tidy()
        return abilities.found[.anyNames] ?? false
    }

    private mutating func tryStrangeNames() async throws {
        guard let store = store as? S3Store else { return }
        let base = base
        let names = ["s//a", "s/b/", "s/../c", "s/./d"].map { base + $0 }
        try await note(.anyNames) {
            for name in names { try await store.put(name, Array(name.utf8)) }
            var listed: Set<String> = []
            try await store.each(prefix: base + "s/") { listed.formUnion($0.map(\.key)) }
            guard listed == Set(names) else {
                _ = try await store.delete(listed.sorted())
                return false
            }
            for name in names where try await store.get(name) != Array(name.utf8) { return false }
            return try await store.delete(names).isEmpty
        }
    }

    /// What only requests of our own making tell.
    private mutating func tryRequests(_ store: S3Store) async throws {
        let base = base
        func put(
            _ name: String, _ headers: [(String, String)], _ body: [UInt8] = StoreTrial.text, signed: [UInt8]? = nil,
            by service: S3Service? = nil
        )
            async throws -> Int
        {
            let (host, path) = store.address(base + name)
            return try await (service ?? store.service).sendOnce(
                "PUT", host, path, headers: headers, body: .bytes(body), payload: Digest(hashing: signed ?? body).hex, learns: false
            ).status
        }
        func isSuccess(_ status: Int) -> Bool { (200..<300).contains(status) }
        let (new, again) = (try await put("new", [("if-none-match", "*")]), try await put("new", [("if-none-match", "*")]))
        abilities.found[.createsOnly] = isSuccess(new) && again == 412
        if let tag = try await store.head(base + "a")?.tag {
            let right = try await put("a", [("if-match", "\"\(tag)\"")])
            let wrong = try await put("a", [("if-match", "\"\(MD5.of(StoreTrial.other).hex)\"")])
            abilities.found[.replacesOnly] = isSuccess(right) && wrong == 412
        }
        guard let signer = store.service.identity.signer else { return }
        let stranger = store.service.asked(
            as: S3Identity(StorageCredentials(keyID: signer.credentials.keyID, secret: "no such secret"), region: signer.region))
        abilities.found[.checksKeys] = try await !isSuccess(put("stranger", [], by: stranger))
        abilities.found[.checksSigned] = try await !isSuccess(put("signed", [], StoreTrial.other, signed: StoreTrial.text))
        let document = Array("<Delete><Object><Key>\(XMLText.escape(store.prefix + base))new</Key></Object></Delete>".utf8)
        let answer = try await store.send(
            "POST", key: nil, query: [("delete", "")],
            headers: [("content-md5", MD5.of(document).base64), ("content-type", "application/xml")], body: .bytes(document),
            payload: Digest(hashing: document).hex)
        abilities.found[.batchDeletion] = answer.isSuccess
    }

    /// Takes away what this trial wrote, and what others left that were killed an hour ago or more.
    private func tidy() async {
        guard let left = try? await store.all(prefix: home) else { return }
        let old = left.filter { object in
            object.key.hasPrefix(base) || (object.modified.map { Timestamp.now.seconds(since: $0) > 3600 } ?? false)
        }
        _ = try? await store.delete(old.map(\.key))
    }
}
