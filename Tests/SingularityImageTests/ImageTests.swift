import FarmModel
import SingularityImage
import Support
import Testing

@Suite struct ImageTests {
    private func head() -> [UInt8] {
        let descriptor = SingularityImage.Descriptor(
            type: .partition, id: 1, offset: 32768, size: 4096, name: "rootfs", extra: SingularityImage.partitionExtra(.x86_64))
        return SingularityImage.head(
            architecture: .x86_64, identifier: [UInt8](repeating: 5, count: 16), created: 77, descriptors: [descriptor], end: 36864)
    }

    @Test func theHeadHasTheFormatsLayout() {
        let bytes = head()
        #expect(bytes.count == 32176)
        #expect(bytes.starts(with: Array("#!/usr/bin/env run-singularity\n".utf8)))
        #expect(Array(bytes[32..<42]) == Array("SIF_MAGIC\0".utf8))
        #expect(Array(bytes[42..<48]) == Array("01\u{0}02\u{0}".utf8))
        #expect(bytes[80] == 47 && bytes[88] == 48)
        #expect(Array(bytes[4096..<4101]) == [0x04, 0x40, 0, 0, 1])
    }

    @Test func readsWhatItWrites() throws {
        let read = try SingularityImage.read(head(), fileSize: 36864)
        #expect(read.descriptors.count == 1 && read.descriptors[0].name == "rootfs" && read.created == 77)
        #expect(try SingularityImage.primaryPartition(of: read) == .init(offset: 32768, size: 4096))
    }

    @Test func hostileHeadsAreRefusedNotFatal() {
        #expect(throws: FarmError.self) { try SingularityImage.read([], fileSize: 0) }
        #expect(throws: FarmError.self) { try SingularityImage.read(head(), fileSize: 100) }
        for seed in 0..<3000 {
            var generator = SeededGenerator(UInt64(seed))
            var bytes = head()
            for _ in 0..<4 { bytes[Int(generator.next() % 4700)] = UInt8(truncatingIfNeeded: generator.next()) }
            do { _ = try SingularityImage.primaryPartition(of: SingularityImage.read(bytes, fileSize: 36864)) } catch {
                #expect(error is FarmError, "seed \(seed)")
            }
        }
    }
}
