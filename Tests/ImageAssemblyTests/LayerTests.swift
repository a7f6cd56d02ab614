import FarmModel
import Foundation
import Glibc
import ImageAssembly
import ProcessRunner
import Support
import SystemIO
import Testing

/// Layers made by hand: what no honest tool writes, and what only some do.
@Suite struct LayerTests {
    private func member(
        _ name: String, _ type: Character = "0", _ content: [UInt8] = [], link: String = "", size: String? = nil,
        extra: [(Int, [UInt8])] = []
    ) -> [UInt8] {
        var header = [UInt8](repeating: 0, count: 512)
        func put(_ bytes: [UInt8], at offset: Int) { header.replaceSubrange(offset..<offset + bytes.count, with: bytes) }
        put(Array(name.utf8), at: 0)
        put(Array("0000755\0".utf8), at: 100)
        put(Array("0000000\0".utf8), at: 108)
        put(Array("0000000\0".utf8), at: 116)
        let octal = String(content.count, radix: 8)
        put(Array((size ?? String(repeating: "0", count: 11 - octal.count) + octal + "\0").utf8), at: 124)
        put(Array("00000000000\0".utf8), at: 136)
        put(Array("        ".utf8), at: 148)
        put(Array(String(type).utf8), at: 156)
        put(Array(link.utf8), at: 157)
        put(Array("ustar\u{0}00".utf8), at: 257)
        for (offset, bytes) in extra { put(bytes, at: offset) }
        let sum = String(header.reduce(0) { $0 + Int($1) }, radix: 8)
        put(Array((String(repeating: "0", count: 6 - sum.count) + sum + "\0 ").utf8), at: 148)
        return header + content + [UInt8](repeating: 0, count: (512 - content.count % 512) % 512)
    }

    private func pax(_ records: [(String, String)]) -> [UInt8] {
        let bytes = records.flatMap { key, value -> [UInt8] in
            let rest = key.utf8.count + value.utf8.count + 3
            var length = rest + 1
            while rest + "\(length)".utf8.count != length { length = rest + "\(length)".utf8.count }
            return Array("\(length) \(key)=\(value)\n".utf8)
        }
        return member("pax", "x", bytes)
    }

    private func tree(_ scratch: Scratch, _ layers: [[UInt8]], limits: EntryTree.Limits = EntryTree.Limits()) throws -> EntryTree {
        try EntryTree(
            merging: layers.enumerated().map { number, bytes in
                let path = "\(scratch.path)/layer\(number)"
                try Disk.replace(path, with: bytes + [UInt8](repeating: 0, count: 1024))
                return TarFile(try OpenFile(path, flags: O_RDONLY), size: Int64(bytes.count + 1024), name: "layer \(number)")
            }, limits: limits)
    }

    private func names(_ tree: EntryTree, _ path: String) -> [String] {
        (tree.find(Array(path.utf8))?.sorted ?? []).map { String(decoding: $0.name, as: UTF8.self) }
    }

    @Test func hostileLayersAreRefusedByName() throws {
        let scratch = try Scratch()
        var few = EntryTree.Limits()
        (few.bytes, few.entries) = (1 << 20, 50)
        let negative: [UInt8] = [0x80] + [UInt8](repeating: 0, count: 3) + [0x80] + [UInt8](repeating: 0, count: 7)
        let endless = (0..<1100).flatMap { _ in member("x", "L", [UInt8](repeating: 65, count: 1000)) }
        let cases: [(String, [UInt8], String, String)] = [
            ("a path out of the tree", member("../../etc/passwd"), "\"../../etc/passwd\"", "leads out"),
            ("a link out of the tree", member("x", "1", link: "../../etc/passwd"), "\"x\"", "leads out"),
            ("a file below a link", member("a", "2", link: "/etc") + member("a/passwd"), "\"a/passwd\"", "no directory"),
            ("a file below a file", member("a") + member("a/b"), "\"a/b\"", "no directory"),
            ("2^63 bytes", member("huge", extra: [(124, negative)]), "\"huge\"", "too large"),
            ("2^63 bytes by pax", pax([("size", "9223372036854775807")]) + member("huge"), "\"huge\"", "more than the layer has left"),
            ("fewer than no bytes", pax([("size", "-5")]) + member("minus"), "\"minus\"", "more than the layer has left"),
            ("an endless header", endless + member("x"), "AAAA", "too long"),
            (
                "endless pax", (0..<600).flatMap { pax([("k\($0)", String(repeating: "v", count: 2000))]) } + member("x"), "\"pax\"",
                "no end"
            ),
            (
                "a bomb of holes", pax([("GNU.sparse.map", "0,0"), ("GNU.sparse.size", "4000000000000")]) + member("bomb"), "\"bomb\"",
                "more than 1048576"
            ),
            (
                "a map that leads out", pax([("GNU.sparse.map", "0,512,100,512"), ("GNU.sparse.size", "9")]) + member("map", "0", [1, 2]),
                "\"map\"", "sparse map"
            ),
            ("a bomb of names", (0..<60).flatMap { member("n\($0)") }, "\"n49\"", "more than 50 entries"),
            ("a long name", pax([("path", String(repeating: "n", count: 300))]) + member("x"), "nnn", "more than 255"),
            ("a link to nothing", member("x", "1", link: "nowhere"), "\"x\"", "no file of the image"),
            ("an unknown type", member("x", "Z"), "\"x\"", "means nothing"),
            ("an owner beyond all", pax([("uid", "99999999999")]) + member("x"), "\"x\"", "owner"),
        ]
        for (what, bytes, entry, why) in cases {
            let error = #expect(throws: FarmError.self, "\(what)") { try tree(scratch, [member("fine"), bytes], limits: few) }
            let message = error?.message ?? ""
            #expect(message.contains("layer 1") && message.contains(entry) && message.contains(why), "\(what): \(message)")
        }
        let torn = #expect(throws: FarmError.self) {
            let path = "\(scratch.path)/torn"
            try Disk.replace(path, with: member("whole") + member("torn", "0", [1, 2, 3]).prefix(513))
            _ = try EntryTree(merging: [TarFile(try OpenFile(path, flags: O_RDONLY), size: 512 + 513)])
        }
        #expect(torn?.message.contains("torn") == true)
    }

    @Test func layersAreMergedAsOverlaysAre() throws {
        let scratch = try Scratch()
        let merged = try tree(
            scratch,
            [
                member("d/", "5") + member("d/sub/", "5") + member("d/sub/old") + member("d/gone") + member("link", "2", link: "d")
                    + member("f")
                    + member("one", "0", [1]) + member("two", "1", link: "one"),
                // The marker behind what the same layer put there; a directory that only a deeper entry speaks of.
                member("d/sub/new") + member("d/.wh..wh..opq") + member("link/under") + member("f/x") + member("one", "0", [2])
                    + member("three", "1", link: "two") + member(".wh.nothing"),
            ])
        #expect(names(merged, "d") == ["sub"] && names(merged, "d/sub") == ["new"])
        #expect(names(merged, "link") == ["under"] && names(merged, "f") == ["x"])
        let (one, two, three) = (merged.find(Array("one".utf8)), merged.find(Array("two".utf8)), merged.find(Array("three".utf8)))
        #expect(one !== two && two === three)
        #expect(merged.follow("d/../link/./under") != nil && merged.follow("nowhere/x") == nil)
    }

    /// GNU's four ways of writing a file with holes give the same file.
    @Test func sparseFilesAreWhatTheyWere() async throws {
        let scratch = try Scratch()
        let script = """
            cd \(scratch.path); truncate -s 3M file; printf begin | dd of=file conv=notrunc status=none
            printf middle | dd of=file bs=1 seek=1500000 conv=notrunc status=none; sha256sum file | cut -c1-64
            tar --sparse --format=gnu -cf gnu.tar file
            for v in 0.0 0.1 1.0; do tar --sparse --format=posix --sparse-version=$v -cf $v.tar file; done
            """
        let digest = try await ProcessRunner.require(Command("bash", ["-ec", script])).prefix(64)
        for name in ["gnu", "0.0", "0.1", "1.0"] {
            let path = "\(scratch.path)/\(name).tar"
            let file = try OpenFile(path, flags: O_RDONLY)
            let size = try file.size()
            #expect(size < 200_000, "tar made no holes")
            let layer = TarFile(file, size: size)
            let tree = try EntryTree(merging: [layer])
            let node = try #require(tree.find(Array("file".utf8)), "\(name)")
            let bytes = try LayerContents(layers: [layer]).head(of: node.content, 4 << 20)
            #expect(Digest(hashing: bytes).hex == digest, "\(name)")
        }
    }

    /// Packed layers: many members, padding, and every kind of damage.
    @Test func packedLayersAreUnpackedOrRefused() async throws {
        let scratch = try Scratch()
        let plain = member("a", "0", Array("content".utf8)) + [UInt8](repeating: 0, count: 1024)
        try Disk.replace("\(scratch.path)/plain", with: plain)
        let script = """
            cd \(scratch.path); gzip -kn plain; head -c 700 plain | gzip > many; tail -c +701 plain | gzip >> many; head -c 64 /dev/zero >> many
            head -c -5 plain.gz > short; head -c 100000000 /dev/zero | gzip > bomb
            """
        try await ProcessRunner.require(Command("bash", ["-ec", script]))
        func unpack(_ name: String, _ diffID: Digest? = nil, damage: Int? = nil) throws -> TarFile {
            var bytes = try Disk.read("\(scratch.path)/\(name)")
            if let damage { bytes[damage] ^= 4 }
            let unpacker = try LayerUnpacker("layer \(name)", scratch: scratch.path, limit: 1 << 20)
            for start in stride(from: 0, to: bytes.count, by: 7) {
                try Array(bytes[start..<min(start + 7, bytes.count)]).withUnsafeBytes { try unpacker.feed($0) }
            }
            return try unpacker.finish(digest: nil, diffID: diffID)
        }
        for name in ["plain", "plain.gz", "many"] {
            #expect(try EntryTree(merging: [try unpack(name, Digest(hashing: plain))]).find(Array("a".utf8)) != nil, "\(name)")
        }
        for (name, word) in [("short", "too soon"), ("bomb", "bomb")] {
            let error = #expect(throws: FarmError.self) { try unpack(name) }
            #expect(error?.message.contains("layer \(name)") == true && error?.message.contains(word) == true, "\(error?.message ?? "")")
        }
        #expect(throws: FarmError.self) { try unpack("plain.gz", Digest(hashing: "other")) }
        #expect(throws: FarmError.self) { try unpack("plain.gz", Digest(hashing: plain), damage: 30) }
        #expect(try Disk.list(scratch.path).allSatisfy { !$0.hasPrefix("sciferry-") })
    }
}
