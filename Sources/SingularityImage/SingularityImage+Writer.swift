import FarmModel

extension SingularityImage {
    /// Extra bytes of the primary system partition: squashfs, primary, architecture.
    package static func partitionExtra(_ architecture: Architecture) -> [UInt8] {
        littleEndian(UInt32(1)) + littleEndian(UInt32(2)) + Array("\(architecture.rawValue)\0".utf8)
    }

    /// Extra bytes of a bill of materials in SPDX JSON.
    package static let materialsExtra: [UInt8] = littleEndian(UInt32(4))

    /// Extra bytes of a signature over SHA-256 digests by a key without a PGP fingerprint.
    package static let signatureExtra: [UInt8] = littleEndian(UInt32(1))
}

extension SingularityImage.Head {
    /// Puts an object at the end of the image and gives its descriptor with id and place; the caller writes the bytes there. Throws
    /// `sif.full` when the table has no free slot.
    package mutating func append(_ object: SingularityImage.Descriptor) throws -> SingularityImage.Descriptor {
        let taken = Set(descriptors.map(\.id))
        guard descriptors.count < slots, let id = (1...UInt32(max(1, slots))).first(where: { !taken.contains($0) }) else {
            throw FarmError("sif.full", .full, "the image's table has no room for another object: all \(slots) are taken")
        }
        var placed = object
        let step = object.kind == .partition ? Int64(SingularityImage.partitionAlignment) : 1
        placed.id = id
        placed.offset = (end + step - 1) / step * step
        placed.paddedSize = placed.size + placed.offset - end
        descriptors.append(placed)
        descriptors.sort { $0.id < $1.id }
        return placed
    }

    /// The bytes of the header, `SingularityImage.headerSize` of them. A pure function: no clock, no random identifier.
    package var header: [UInt8] {
        var bytes = launch + Array(SingularityImage.magic.utf8) + Array(SingularityImage.version.utf8) + Array("\(architecture)\0".utf8)
        bytes += identifier
        for value in [
            created, modified, Int64(slots - descriptors.count), Int64(slots), tableOffset, Int64(slots * SingularityImage.descriptorSize),
            dataOffset, end - dataOffset,
        ] {
            bytes += SingularityImage.littleEndian(UInt64(bitPattern: value))
        }
        return bytes
    }

    /// The bytes of the descriptor table. An object's slot follows from its id.
    package var table: [UInt8] {
        var bytes = [UInt8](repeating: 0, count: slots * SingularityImage.descriptorSize)
        for descriptor in descriptors {
            let start = (Int(descriptor.id) - 1) * SingularityImage.descriptorSize
            bytes.replaceSubrange(start..<start + SingularityImage.descriptorSize, with: descriptor.encoded)
        }
        return bytes
    }
}

extension SingularityImage.Descriptor {
    fileprivate var encoded: [UInt8] {
        var bytes = SingularityImage.littleEndian(UInt32(bitPattern: type)) + [1]
        bytes += [id, group, link].flatMap { SingularityImage.littleEndian($0) }
        bytes += [offset, size, paddedSize, created, modified, uid, gid].flatMap { SingularityImage.littleEndian(UInt64(bitPattern: $0)) }
        return bytes + SingularityImage.padded(rawName, to: 128) + SingularityImage.padded(extra, to: 384)
    }

    /// What a signature covers of a descriptor: neither where the object lies nor when it was changed.
    ///
    /// - Parameter first: the smallest id of its group, from which ids count.
    func signedBytes(from first: UInt32) -> [UInt8] {
        var bytes = SingularityImage.littleEndian(UInt32(bitPattern: type)) + [1]
        bytes += SingularityImage.littleEndian(id &- first) + SingularityImage.littleEndian(link)
        bytes += [size, created, uid, gid].flatMap { SingularityImage.littleEndian(UInt64(bitPattern: $0)) }
        return bytes + SingularityImage.padded(rawName, to: 128) + SingularityImage.padded(extra, to: 384)
    }
}
