extension SingularityImage {
    /// Extra bytes of the primary system partition: squashfs, primary, architecture.
    package static func partitionExtra(_ architecture: Architecture) -> [UInt8] {
        littleEndian(UInt32(1)) + littleEndian(UInt32(2)) + Array("\(architecture.rawValue)\0".utf8)
    }

    /// The bytes from 0 to `dataOffset` of an image whose objects the descriptors describe. A pure function of its
    /// arguments: no clock, no random identifier.
    ///
    /// - Parameters:
    ///   - identifier: 16 bytes that name the image; derived from content by the caller.
    ///   - created: seconds since 1970, written as the creation and modification time.
    ///   - end: the file's size, from which the data size follows.
    package static func head(
        architecture: Architecture, identifier: [UInt8], created: Int64, descriptors: [Descriptor], end: Int64
    ) -> [UInt8] {
        precondition(identifier.count == 16 && descriptors.count <= descriptorSlots)
        var bytes = padded(launchScript, to: 32)
        bytes += Array(magic.utf8) + Array(version.utf8) + Array("\(architecture.rawValue)\0".utf8)
        bytes += identifier
        for value in [
            created, created, Int64(descriptorSlots - descriptors.count), Int64(descriptorSlots),
            Int64(descriptorOffset), Int64(descriptorSlots * descriptorSize), Int64(dataOffset),
            end - Int64(dataOffset),
        ] {
            bytes += littleEndian(UInt64(bitPattern: value))
        }
        bytes += [UInt8](repeating: 0, count: descriptorOffset - bytes.count)
        var previousEnd = Int64(dataOffset)
        for descriptor in descriptors {
            bytes += encode(descriptor, after: previousEnd, created: created)
            previousEnd = descriptor.offset + descriptor.size
        }
        return bytes + [UInt8](repeating: 0, count: dataOffset - bytes.count)
    }

    private static func encode(_ descriptor: Descriptor, after previousEnd: Int64, created: Int64) -> [UInt8] {
        let firstGroup: UInt32 = 0xF000_0001
        var bytes = littleEndian(UInt32(bitPattern: descriptor.type)) + [1]
        bytes += littleEndian(descriptor.id) + littleEndian(firstGroup) + littleEndian(UInt32(0))
        let padding = descriptor.offset - previousEnd
        for value in [descriptor.offset, descriptor.size, descriptor.size + padding, created, created, 0, 0] {
            bytes += littleEndian(UInt64(bitPattern: value))
        }
        bytes += padded(descriptor.name, to: 128)
        bytes += descriptor.extra + [UInt8](repeating: 0, count: 384 - descriptor.extra.count)
        return bytes
    }

    static func littleEndian(_ value: some FixedWidthInteger) -> [UInt8] {
        withUnsafeBytes(of: value.littleEndian) { Array($0) }
    }

    private static func padded(_ text: String, to count: Int) -> [UInt8] {
        let bytes = Array(text.utf8.prefix(count))
        return bytes + [UInt8](repeating: 0, count: count - bytes.count)
    }
}
