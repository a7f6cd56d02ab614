import FarmModel
import Testing

@testable import TestSuites

struct MediaTests {
    private static let volume = Phantoms.dataset.files["volume.nii"] ?? []

    private func changed(_ place: Int, _ bytes: [UInt8]) -> [UInt8] {
        var volume = Self.volume
        volume.replaceSubrange(place..<place + bytes.count, with: bytes)
        return volume
    }

    @Test func aVolumeTellsOfItself() throws {
        let volume = try NiftiVolume(Self.volume, source: "v")
        #expect(
            volume.dimensions == [24, 32, 12] && volume.type == "int16" && volume.orientation == "RAS" && volume.voxelSize == [1, 1, 2])
        let summary = volume.summary
        #expect(summary.mean == 577 && summary.least == 0 && summary.most == 1154 && summary.strange == 0 && summary.count == 9216)
        let series = try NiftiVolume(Phantoms.dataset.files["series.nii"] ?? [], source: "s")
        #expect(series.dimensions == [24, 32, 12, 4] && series.summary.mean == 578.5)
    }

    /// Byte order turned round, field by field.
    @Test func theOtherByteOrderIsRead() throws {
        var bytes = Self.volume
        for (place, width, count) in [
            (0, 4, 1), (40, 2, 8), (70, 2, 2), (76, 4, 8), (108, 4, 3), (252, 2, 2), (256, 4, 18), (352, 2, 9216),
        ] {
            for index in 0..<count {
                let start = place + index * width
                bytes.replaceSubrange(start..<start + width, with: bytes[start..<start + width].reversed())
            }
        }
        let volume = try NiftiVolume(bytes, source: "v")
        #expect(volume.dimensions == [24, 32, 12] && volume.summary.mean == 577 && volume.orientation == "RAS")
        let plain = try NiftiVolume(Self.volume, source: "v")
        #expect(volume.checksum(step: 1) == plain.checksum(step: 1))
    }

    @Test func scalesAndOddNumbersCount() throws {
        // A slope of 2 and an intercept of 1.
        let scaled = try NiftiVolume(changed(112, [0, 0, 0, 0x40, 0, 0, 0x80, 0x3f]), source: "v")
        #expect(scaled.summary.mean == 1155 && scaled.summary.most == 2309)
        // As 32-bit floats, of which there are half as many; some are no numbers.
        var floats = changed(70, [16, 0, 32, 0])
        floats.replaceSubrange(46..<48, with: [6, 0])
        floats.replaceSubrange(352..<356, with: [0, 0, 0xc0, 0x7f])
        let volume = try NiftiVolume(floats, source: "v")
        #expect(volume.type == "float32" && volume.summary.strange >= 1)
        var check = VolumeCheck(file: "v")
        check.isFinite = true
        #expect(check.problems(volume, "v").contains { $0.contains("no number") })
    }

    @Test func axesAreNamed() throws {
        func turned(_ rows: [Float]) throws -> String? {
            var bytes: [UInt8] = []
            for row in rows { withUnsafeBytes(of: row.bitPattern.littleEndian) { bytes += Array($0) } }
            return try NiftiVolume(changed(280, bytes), source: "v").orientation
        }
        #expect(try turned([-1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 2, 0]) == "LAS")
        #expect(try turned([0, 0, 1, 0, -1, 0, 0, 0, 0, 1, 0, 0]) == "PSR")
        #expect(try turned([0.9, 0.3, 0, 0, -0.3, 0.9, 0, 0, 0, 0, 2, 0]) == "RAS")
        #expect(try turned([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]) == nil)
        // By the quaternion of a half turn around the third axis, where there is no matrix.
        var quaternion = changed(252, [1, 0, 0, 0])
        quaternion.replaceSubrange(264..<268, with: [0, 0, 0x80, 0x3f])
        #expect(try NiftiVolume(quaternion, source: "v").orientation == "LPS")
    }

    @Test func whatIsNoVolumeIsRefused() {
        let bads: [[UInt8]] = [
            [], Array(Self.volume.prefix(300)), Array(Self.volume.dropLast(10)), changed(344, [0]), changed(40, [9, 0]),
            changed(42, [0, 0]),
            changed(70, [77, 0]), changed(42, [255, 127, 255, 127, 255, 127]), [0x1f, 0x8b, 8, 0, 1, 2, 3],
            changed(108, [0, 0, 0xc0, 0x7f]),
        ]
        for bad in bads { #expect(throws: FarmError.self) { try NiftiVolume(bad, source: "v") } }
    }

    @Test func checksumsForgiveWhatIsBelowTheStep() throws {
        let volume = try NiftiVolume(Self.volume, source: "v")
        let near = try NiftiVolume(changed(352, [1, 0]), source: "v")
        #expect(volume.checksum(step: 1) != near.checksum(step: 1) && volume.checksum(step: 10) == near.checksum(step: 10))
        var check = VolumeCheck(file: "v", step: 10)
        check.checksum = volume.checksum(step: 10)
        #expect(check.problems(near, "v").isEmpty)
    }

    @Test func picturesAreWrittenReadAndCompared() throws {
        var pixels: [UInt8] = []
        for index in 0..<600 { pixels += [UInt8(index % 251), UInt8(index % 7), UInt8(index % 100), 255] }
        let picture = Picture(width: 30, height: 20, pixels: pixels)
        let read = try Picture(png: picture.png, source: "p")
        #expect(read.pixels == pixels && read.width == 30 && read.difference(from: picture) == 0)
        var other = picture
        other.pixels[0] = other.pixels[0] &+ 255
        #expect((read.difference(from: other) ?? 0) > 0 && read.difference(from: Picture(width: 20, height: 30, pixels: pixels)) == nil)
        #expect(Picture(width: 2, height: 1, pixels: [1, 2, 3, 255, 1, 2, 3, 255]).drawn == 0 && picture.drawn > 500)
        for cut in [10, 40, 60] { #expect(throws: FarmError.self) { try Picture(png: Array(picture.png.prefix(cut)), source: "p") } }
        #expect(throws: FarmError.self) { try Picture(png: Array("text".utf8), source: "p") }
    }

    @Test func aDumpOfAScreenIsAPicture() {
        func big(_ value: Int) -> [UInt8] { (0..<4).map { UInt8(truncatingIfNeeded: value >> (24 - 8 * $0)) } }
        var head = [104, 7, 2, 24, 2, 1, 0, 0, 32, 0, 32, 32, 8, 4, 0, 0, 0, 8, 256, 0, 2, 1, 0, 0, 0].flatMap(big)
        head += [0, 0, 0, 0]
        let picture = Picture(windowDump: head + [3, 2, 1, 0, 6, 5, 4, 0])
        #expect(picture?.pixels == [1, 2, 3, 255, 4, 5, 6, 255])
        #expect(Picture(windowDump: head) == nil && Picture(windowDump: []) == nil)
    }

    @Test func phantomsAreTheSameEverywhere() {
        let dataset = Phantoms.dataset.dataset
        #expect(
            dataset.files.count == 15
                && dataset.files.allSatisfy { Phantoms.dataset.files[$0.path].map(Digest.init(hashing:)) == $0.digest })
        let all = Digest(hashing: dataset.files.map { "\($0.path) \($0.digest.hex)" }.joined(separator: "\n"))
        #expect(all.hex == "a2921c9f1f47bb3ba6b2162ce9a4b4e48a1e938127b5136f16f13c1f0bec3ccd", "\(all.hex)")
    }

    @Test func suitesArePinned() throws {
        var suite = TestSuite(tests: [FunctionalTest(name: "t", command: "c")])
        suite.files = [SuiteFile(dataset: "phantoms", path: "volume.nii")]
        let pinned = TestDataset.pinned(suite, to: ["phantoms": Phantoms.dataset.dataset])
        #expect(pinned.files?.first?.digest == Digest(hashing: Self.volume) && pinned.tests.count == 1)
        suite.files = [SuiteFile(dataset: "ds000001", path: "a"), SuiteFile(dataset: "ds000001", path: "b")]
        let skipped = TestDataset.pinned(suite, to: [:])
        #expect(skipped.tests.isEmpty && skipped.skipped.contains("ds000001/a and 1 more files"))
    }

    @Test func crashesAreToldFromOtherEnds() {
        func problem(_ code: Int32, _ output: String = "") -> String? {
            StartCheck.problem(TestObservation(exitCode: code, output: output))
        }
        for code: Int32 in [0, 1, 2, 64, 130, 143, 255] { #expect(problem(code, "usage: x") == nil) }
        #expect(
            problem(139)?.contains("segmentation") == true && problem(132)?.contains("illegal") == true
                && problem(127, "sh: x: not found") != nil)
        #expect(problem(1, "x: error while loading shared libraries: liby.so.1: cannot open") != nil)
        #expect(
            problem(1, "cannot create /opt/x: Read-only file system")?.contains("write") == true
                && problem(0, "Read-only file system") == nil)
        #expect(StartCheck.problem(TestObservation(exitCode: 137, output: "", timedOut: true)) == "it did not end")
    }

    @Test func factsOfCommandsAreRead() {
        let facts = CommandFacts.read(
            "a\tthere\t/bin/a\t62\t\nb\tabsent\t\t\t\nc\tdenied\t/x/c\t\t\nd\tthere\t/bin/d\t183\tlibx.so.1 liby.so \n")
        #expect(facts.map { $0.problems(architecture: "x86_64").isEmpty } == [true, false, false, false])
        #expect(facts[3].problems(architecture: "x86_64")[0].contains("AArch64"))
        #expect(facts[3].problems(architecture: "aarch64") == ["/bin/d needs libraries that the image does not have: libx.so.1, liby.so"])
    }
}
