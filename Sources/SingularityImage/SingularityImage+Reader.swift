import FarmModel

extension SingularityImage {
    /// Reads the head of an image. `bytes` are the file's first `dataOffset` bytes or more; `fileSize` bounds every
    /// object. Throws `sif.invalid`, naming the field.
    package static func read(_ bytes: [UInt8], fileSize: Int64) throws -> Head {
        guard bytes.count >= headerSize else { throw invalid("the file ends inside the header") }
        guard Array(bytes[32..<42]) == Array(magic.utf8) else { throw invalid("the magic is missing") }
        guard Array(bytes[42..<45]) == Array(version.utf8) else { throw invalid("the version is not 01") }
        let total = integer(bytes, at: 88)
        let tableOffset = integer(bytes, at: 96)
        guard total >= 0, total <= 4096, tableOffset >= Int64(headerSize),
            tableOffset <= Int64(bytes.count), total * Int64(descriptorSize) <= Int64(bytes.count) - tableOffset
        else { throw invalid("the descriptor table lies outside the head") }
        var descriptors: [Descriptor] = []
        for slot in 0..<Int(total) {
            let start = Int(tableOffset) + slot * descriptorSize
            guard bytes[start + 4] != 0 else { continue }
            descriptors.append(try descriptor(bytes, at: start, fileSize: fileSize))
        }
        return Head(
            architecture: text(bytes[45..<48]), identifier: Array(bytes[48..<64]), created: integer(bytes, at: 64),
            descriptors: descriptors, dataSize: integer(bytes, at: 120))
    }

    /// The primary system partition; throws `sif.invalid` when there is none.
    package static func primaryPartition(of head: Head) throws -> Partition {
        for descriptor in head.descriptors where descriptor.type == DataType.partition.rawValue {
            if descriptor.extra.count >= 8, descriptor.extra[4] == 2 {
                return Partition(offset: descriptor.offset, size: descriptor.size)
            }
        }
        throw invalid("there is no primary system partition")
    }

    private static func descriptor(_ bytes: [UInt8], at start: Int, fileSize: Int64) throws -> Descriptor {
        let offset = integer(bytes, at: start + 17)
        let size = integer(bytes, at: start + 25)
        guard offset >= 0, size >= 0, offset <= fileSize, size <= fileSize - offset else {
            throw invalid("an object lies outside the file")
        }
        var result = Descriptor(
            type: .generic, id: UInt32(truncatingIfNeeded: word(bytes, at: start + 5)), offset: offset, size: size,
            name: text(bytes[(start + 73)..<(start + 201)]), extra: Array(bytes[(start + 201)..<(start + 585)]))
        result.type = Int32(bitPattern: word(bytes, at: start))
        return result
    }

    private static func integer(_ bytes: [UInt8], at offset: Int) -> Int64 {
        Int64(bitPattern: (0..<8).reduce(UInt64(0)) { $0 | UInt64(bytes[offset + $1]) << (8 * UInt64($1)) })
    }

    private static func word(_ bytes: [UInt8], at offset: Int) -> UInt32 {
        (0..<4).reduce(UInt32(0)) { $0 | UInt32(bytes[offset + $1]) << (8 * UInt32($1)) }
    }

    private static func text(_ bytes: ArraySlice<UInt8>) -> String {
        String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)
    }

    private static func invalid(_ message: String) -> FarmError {
        FarmError("sif.invalid", .corrupt, "this is no usable SIF image: \(message)")
    }
}
