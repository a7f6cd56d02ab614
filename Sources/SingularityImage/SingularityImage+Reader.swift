import FarmModel

extension SingularityImage {
    /// A head is not longer than this, whatever it says.
    package static let longestHead = 1 << 20

    /// Reads the head of an image. `bytes` are the file's first `longestHead` bytes, or all; `fileSize` bounds every object. Throws
    /// `sif.invalid`, naming the field.
    package static func read(_ bytes: [UInt8], fileSize: Int64) throws -> Head {
        guard bytes.count >= headerSize else { throw invalid("the file ends inside the header") }
        guard Array(bytes[32..<42]) == Array(magic.utf8) else { throw invalid("the magic is missing") }
        guard Array(bytes[42..<45]) == Array(version.utf8) else { throw invalid("the version is not 01") }
        let total = integer(bytes, at: 88)
        let tableOffset = integer(bytes, at: 96)
        guard (0...1500).contains(total), tableOffset >= Int64(headerSize),
            tableOffset <= Int64(bytes.count), total * Int64(descriptorSize) <= Int64(bytes.count) - tableOffset
        else { throw invalid("the descriptor table lies outside the head") }
        guard let architecture = Architecture(rawValue: text(bytes[45..<48])) else {
            throw invalid("its architecture is \"\(text(bytes[45..<48]).printable())\"")
        }
        var head = Head(architecture: architecture, identifier: Array(bytes[48..<64]), created: integer(bytes, at: 64))
        head.launch = Array(bytes[..<32])
        head.modified = integer(bytes, at: 72)
        head.tableOffset = tableOffset
        head.slots = Int(total)
        head.dataOffset = integer(bytes, at: 112)
        guard (0...fileSize).contains(head.dataOffset) else { throw invalid("its data begin outside the file") }
        for slot in 0..<Int(total) {
            let start = Int(tableOffset) + slot * descriptorSize
            guard bytes[start + 4] != 0 else { continue }
            head.descriptors.append(try descriptor(bytes, at: start, slot: slot, fileSize: fileSize))
        }
        return head
    }

    /// The primary system partition; throws `sif.invalid` when there is none.
    package static func primaryPartition(of head: Head) throws -> Partition {
        for descriptor in head.descriptors where descriptor.kind == .partition && descriptor.extra[4] == 2 {
            return Partition(offset: descriptor.offset, size: descriptor.size)
        }
        throw invalid("there is no primary system partition")
    }

    private static func descriptor(_ bytes: [UInt8], at start: Int, slot: Int, fileSize: Int64) throws -> Descriptor {
        var result = Descriptor()
        result.type = Int32(bitPattern: word(bytes, at: start))
        result.id = word(bytes, at: start + 5)
        result.group = word(bytes, at: start + 9)
        result.link = word(bytes, at: start + 13)
        result.offset = integer(bytes, at: start + 17)
        result.size = integer(bytes, at: start + 25)
        result.paddedSize = integer(bytes, at: start + 33)
        result.created = integer(bytes, at: start + 41)
        result.modified = integer(bytes, at: start + 49)
        result.uid = integer(bytes, at: start + 57)
        result.gid = integer(bytes, at: start + 65)
        let name = bytes[(start + 73)..<(start + 201)]
        result.rawName = Array(name[..<(name.lastIndex { $0 != 0 }.map { $0 + 1 } ?? name.startIndex)])
        result.extra = Array(bytes[(start + 201)..<(start + 585)])
        guard result.id == UInt32(slot + 1) else { throw invalid("object \(result.id) stands in the table's slot \(slot + 1)") }
        guard result.offset >= 0, result.size >= 0, result.offset <= fileSize, result.size <= fileSize - result.offset else {
            throw invalid("object \(result.id) lies outside the file")
        }
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

    static func invalid(_ message: String) -> FarmError {
        FarmError("sif.invalid", .corrupt, "this is no usable SIF image: \(message)")
    }
}
