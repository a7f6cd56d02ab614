import FarmModel
import Glibc
import SingularityImage
import Support
import SystemIO
import Testing

@Suite struct ImageTests {
    private func head() throws -> [UInt8] {
        var head = SingularityImage.Head(architecture: .x86_64, identifier: [UInt8](repeating: 5, count: 16), created: 77)
        let placed = try head.append(
            .init(type: .partition, size: 4096, created: 77, name: "rootfs", extra: SingularityImage.partitionExtra(.x86_64)))
        #expect(placed.id == 1 && placed.offset == 32768 && placed.paddedSize == 4096 + 32768 - 32176)
        return head.header + [UInt8](repeating: 0, count: 4096 - 128) + head.table
    }

    @Test func theHeadHasTheFormatsLayout() throws {
        let bytes = try head()
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
        #expect(read.header + [UInt8](repeating: 0, count: 4096 - 128) + read.table == (try head()))
    }

    @Test func hostileHeadsAreRefusedNotFatal() throws {
        #expect(throws: FarmError.self) { try SingularityImage.read([], fileSize: 0) }
        #expect(throws: FarmError.self) { try SingularityImage.read(head(), fileSize: 100) }
        for seed in 0..<3000 {
            var generator = SeededGenerator(UInt64(seed))
            var bytes = try head()
            for _ in 0..<4 { bytes[Int(generator.next() % 4700)] = UInt8(truncatingIfNeeded: generator.next()) }
            do { _ = try SingularityImage.primaryPartition(of: SingularityImage.read(bytes, fileSize: 36864)) } catch {
                #expect(error is FarmError, "seed \(seed)")
            }
        }
    }

    /// Objects come and go; what is left is where it was, and the head says so.
    @Test func objectsAreAddedAndRemoved() throws {
        let scratch = try Scratch()
        let path = "\(scratch.path)/x.sif"
        var image = SingularityFile(
            try OpenFile(path, flags: O_RDWR | O_CREAT),
            SingularityImage.Head(architecture: .aarch64, identifier: [UInt8](repeating: 1, count: 16), created: 5))
        func add(_ name: String, _ bytes: [UInt8]) throws -> SingularityImage.Descriptor {
            try image.append(.init(type: .generic, size: 0, created: 5, name: name), bytes, modified: 9)
        }
        let one = try add("one", [1, 2, 3])
        let two = try add("two", [4, 5])
        #expect(one.id == 1 && two.id == 2 && two.offset == one.end)
        try image.remove(1, modified: 10)
        #expect(try Disk.read(path).suffix(5) == [0, 0, 0, 4, 5])
        let three = try add("three", [6])
        #expect(three.id == 1 && three.offset == two.end)
        try image.remove(three.id, modified: 11)
        var again = try SingularityFile(path, isWritable: true)
        #expect(again.head == image.head && again.head.modified == 11 && Disk.size(path) == two.end)
        #expect(try again.bytes(of: again.object(2), limit: 10) == [4, 5])
        #expect(throws: FarmError.self) { try again.object(7) }
        #expect(throws: FarmError.self) { try again.bytes(of: again.object(2), limit: 1) }
        for number in 0..<47 { try again.append(.init(type: .generic, size: 0, name: "\(number)"), [7], modified: 12) }
        let full = #expect(throws: FarmError.self) { try again.append(.init(type: .generic, size: 0, name: "more"), [8], modified: 12) }
        #expect(full?.code == "sif.full")
        #expect(try SingularityFile(path).head.descriptors.count == 48)
    }
}
