import FarmModel
import Testing

@Suite struct DigestTests {
    @Test func agreesWithThePublishedVectors() {
        // FIPS 180-4 examples.
        #expect(Digest(hashing: "").hex == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
        #expect(Digest(hashing: "abc").hex == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
    }

    /// Whatever their lengths are, many at once are the same as one by one.
    @Test func severalAtOnceAgreeWithTheLibrary() {
        var state: UInt64 = 7
        func random() -> UInt64 {
            state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
            return state >> 33
        }
        let edges = [0, 1, 55, 56, 57, 63, 64, 65, 119, 120, 127, 128, 129, 191, 192]
        for round in 0..<300 {
            let lengths =
                round < edges.count * edges.count
                ? [edges[round % edges.count], edges[round / edges.count]] : (0..<Int(random() % 9)).map { _ in Int(random() % 5000) }
            let pieces = lengths.map { length in (0..<length).map { _ in UInt8(truncatingIfNeeded: random()) } }
            let whole = pieces.flatMap { $0 }
            let digests = whole.withUnsafeBytes { raw in
                var end = 0
                return Digest.several(
                    lengths.map { length in
                        defer { end += length }
                        return UnsafeRawBufferPointer(rebasing: raw[end..<end + length])
                    })
            }
            #expect(digests == pieces.map { Digest(hashing: $0) })
        }
    }

    @Test func readsItsOwnTextAndRefusesOthers() {
        let digest = Digest(hashing: "x")
        #expect(Digest(digest.hex) == digest)
        #expect(Digest("sha256:\(digest.hex)") == digest)
        #expect(Digest(digest.hex.uppercased()) == nil)
        #expect(Digest(digest.hex.dropLast()) == nil)
        #expect(Digest("") == nil)
        #expect(Digest(bytes: digest.bytes) == digest)
    }

    @Test func hashesInPiecesAsInOne() {
        var hasher = Digest.Hasher()
        hasher.update(Array("ab".utf8))
        hasher.update(Array("c".utf8)[...])
        #expect(hasher.finish() == Digest(hashing: "abc"))
    }
}

@Suite struct SettingsTests {
    private struct Settings: Codable, Equatable {
        var name = ""
        var slots = 1
        var places: [String: Int] = ["a": 1]
    }

    @Test func whatIsNotNamedKeepsItsDefault() throws {
        let read = try CanonicalJSON.decodeSettings(Array(#"{"name":"x","places":{"b":2}}"#.utf8), defaults: Settings(), source: "s")
        #expect(read == Settings(name: "x", slots: 1, places: ["b": 2]))
    }

    @Test(arguments: [
        (#"{"slotz":2}"#, "settings.key"), (#"{"slots":"two"}"#, "json.invalid"), (#"{"slots":2"#, "json.invalid"),
        (#"[1]"#, "json.invalid"), ("", "json.invalid"),
    ])
    func slipsOfThePenAreNamed(_ text: String, _ code: String) {
        let error = #expect(throws: FarmError.self) {
            try CanonicalJSON.decodeSettings(Array(text.utf8), defaults: Settings(), source: "farm.json")
        }
        #expect(error?.code.rawValue == code && error?.message.contains("farm.json") == true)
    }
}

@Suite struct IdentifierTests {
    @Test(arguments: ["j1.1", "j20.3"]) func attemptsRoundTrip(_ text: String) throws {
        #expect(try #require(AttemptID(text)).description == text)
    }

    @Test(arguments: ["", "j1", "j1.", ".1", "j1.0", "j1.-2", "j1.x"]) func wrongAttemptsAreRefused(_ text: String) {
        #expect(AttemptID(text) == nil)
    }

    @Test(arguments: ["../x", "", "a/b", ".hidden", "a b", String(repeating: "a", count: 65)])
    func unsafeNamesAreRefused(_ text: String) { #expect(!PlainName.isValid(text)) }
}

@Suite struct CanonicalJSONTests {
    private struct Value: Codable, Equatable {
        var b: String
        var a: Int
    }

    @Test func hasOneForm() throws {
        #expect(try CanonicalJSON.encode(Value(b: "x/y", a: 1)) == Array(#"{"a":1,"b":"x/y"}"#.utf8))
    }

    @Test func saysWhatIsMissingAndWhere() {
        let error = #expect(throws: FarmError.self) {
            try CanonicalJSON.decode(Value.self, from: Array(#"{"a":1}"#.utf8), source: "the file")
        }
        #expect(error?.message == #"the file is not what it should be: "b" is missing in the top level"#)
    }

    @Test func shellWordsHoldAnything() {
        #expect(ShellWord.quoted("a'b $(c)") == #"'a'\''b $(c)'"#)
        // One character to a reader, two to a shell.
        let scalars: [Unicode.Scalar] = ["'", "'", "\\", "'", "'", "\u{301}", "'"]
        #expect(Array(ShellWord.quoted("'\u{301}").unicodeScalars) == scalars)
    }
}

@Suite struct ImageListingTests {
    @Test func whatIsWrittenIsReadWhateverTheNamesAre() throws {
        var listing = ImageListing()
        listing.add(Array("/usr/bin/tool".utf8), kind: "f", mode: 0o4755, owner: 0, group: 5, size: "12", content: "ab")
        listing.add([0x2F, 0xFF, 0x20, 0x0A, 0x5C], kind: "l", mode: 0o777, owner: 1, group: 2, content: ImageListing.escaped([0x20]))
        let text = String(decoding: listing.bytes, as: UTF8.self)
        #expect(text == "l 777 1 2 - \\x20 - /\\xff\\x20\\x0a\\x5c\nf 4755 0 5 12 ab - /usr/bin/tool\n")
        #expect(try ImageListing(listing.bytes) == listing)
        for wrong in ["f 1 2\n", "f 755 0 0 1 a - b /x\n"] { #expect(throws: FarmError.self) { try ImageListing(Array(wrong.utf8)) } }
    }

    @Test func differencesAreToldInWords() throws {
        var (one, other) = (ImageListing(), ImageListing())
        for path in ["/same", "/gone"] { one.add(Array(path.utf8), kind: "f", mode: 0o644, owner: 0, group: 0, size: "1", content: "a") }
        one.add(Array("/changed".utf8), kind: "f", mode: 0o644, owner: 0, group: 0, size: "1", content: "a")
        for path in ["/same", "/new"] { other.add(Array(path.utf8), kind: "f", mode: 0o644, owner: 0, group: 0, size: "1", content: "a") }
        other.add(Array("/changed".utf8), kind: "f", mode: 0o755, owner: 0, group: 0, size: "1", content: "b")
        let (a, b) = (Digest(hashing: "a"), Digest(hashing: "b"))
        let comparison = ImageComparison(candidate: a, rebuilt: b, one, other)
        #expect(
            comparison.differences
                == ["/changed: mode 644 became 755, content", "/gone: only in the candidate", "/new: only in the rebuilt image"])
        #expect(comparison.count == 3 && !comparison.hasSameFiles)
        #expect(ImageComparison(candidate: a, rebuilt: b, one, one).hasSameFiles)
        var many = ImageListing()
        for number in 0..<900 { many.add(Array("/\(number)".utf8), kind: "f", mode: 0, owner: 0, group: 0) }
        let long = ImageComparison(candidate: a, rebuilt: b, ImageListing(), many)
        #expect(long.count == 900 && long.differences.count == 500)
    }
}

@Suite struct GitReferencesTests {
    private func line(_ text: String) -> String {
        let length = String(text.utf8.count + 4, radix: 16)
        return String(repeating: "0", count: 4 - length.count) + length + text
    }

    @Test func tagsComeBeforeBranchesAndPeeledOnesFirst() throws {
        let ids = ["1", "2", "3", "4"].map { String(repeating: $0, count: 40) }
        let text =
            line("# service=git-upload-pack\n") + "0000" + line("\(ids[0]) HEAD\0multi_ack agent=git/2\n")
            + line("\(ids[0]) refs/heads/main\n") + line("\(ids[1]) refs/tags/v1\n") + line("\(ids[2]) refs/tags/v1^{}\n")
            + line("\(ids[3]) refs/heads/v1\n") + "0000"
        let references = try GitReferences(Array(text.utf8))
        #expect(references.commit(of: "v1") == ids[2] && references.commit(of: "main") == ids[0] && references.commit(of: "v2") == nil)
        #expect(references.tags == ["v1"])
        for broken in ["<html>", "00", "ffff", "0003x", line("zz refs/heads/main\n")] {
            #expect(throws: FarmError.self) { try GitReferences(Array(broken.utf8)) }
        }
    }
}
