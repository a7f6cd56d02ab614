/// The Singularity Image Format, version 01 (apptainer/sif `pkg/sif`): a 128-byte header, a table of 585-byte
/// descriptors, then the data objects. Little-endian, packed.
package enum SingularityImage {
    package static let headerSize = 128
    package static let descriptorSize = 585
    package static let descriptorSlots = 48
    package static let descriptorOffset = 4096
    /// Where data may begin: behind the table.
    package static let dataOffset = descriptorOffset + descriptorSlots * descriptorSize
    /// Partitions begin at multiples of this.
    package static let partitionAlignment = 4096
    /// Where the first partition of our images begins.
    package static let partitionStart = Int64((dataOffset + partitionAlignment - 1) / partitionAlignment * partitionAlignment)

    package static let launchScript = "#!/usr/bin/env run-singularity\n"
    package static let magic = "SIF_MAGIC\0"
    package static let version = "01\0"

    /// The group of all objects that we write; its high bits mark it as a group.
    package static let firstGroup: UInt32 = 0xF000_0001
    /// No group.
    package static let noGroup: UInt32 = 0xF000_0000

    /// What a data object is.
    package enum DataType: Int32, Sendable {
        case definitionFile = 0x4001
        case environment = 0x4002
        case labels = 0x4003
        case partition = 0x4004
        case signature = 0x4005
        case genericJSON = 0x4006
        case generic = 0x4007
        case cryptographicMessage = 0x4008
        case billOfMaterials = 0x4009
        case ociRootIndex = 0x400A
        case ociBlob = 0x400B
    }

    /// Processor architectures as the format numbers them.
    package enum Architecture: String, Sendable, CaseIterable {
        case unknown = "00"
        case i386 = "01"
        case x86_64 = "02"
        case arm = "03"
        case aarch64 = "04"
        case ppc64 = "05"
        case ppc64le = "06"
        case s390x = "11"
        case riscv64 = "12"
        case loongarch64 = "13"

        /// The architecture of a kernel's machine name.
        package init?(machine: String) {
            guard let found = Architecture.allCases.first(where: { "\($0)" == machine }) else { return nil }
            self = found
        }
    }

    /// One entry of the descriptor table.
    package struct Descriptor: Sendable, Equatable {
        package var type: Int32
        package var id: UInt32
        package var group: UInt32
        /// The object, or with the group's high bits the group, that it is about; 0 for none.
        package var link: UInt32
        package var offset: Int64
        package var size: Int64
        /// Bytes of the object with the padding before it.
        package var paddedSize: Int64
        /// Seconds since 1970.
        package var created: Int64
        package var modified: Int64
        package var uid: Int64
        package var gid: Int64
        /// The bytes of its name, at most 128, without trailing NULs.
        package var rawName: [UInt8]
        /// The 384 type-specific bytes.
        package var extra: [UInt8]

        package init(
            type: DataType, id: UInt32 = 0, group: UInt32 = firstGroup, link: UInt32 = 0, offset: Int64 = 0, size: Int64,
            created: Int64 = 0,
            name: String, extra: [UInt8] = []
        ) {
            self.type = type.rawValue
            self.id = id
            self.group = group
            self.link = link
            self.offset = offset
            self.size = size
            paddedSize = size
            self.created = created
            modified = created
            uid = 0
            gid = 0
            rawName = Array(name.utf8.prefix(128))
            // What is left of it is zeros.
            self.extra = SingularityImage.padded(extra, to: 384)
        }

        init() { self.init(type: .generic, size: 0, name: "") }

        package var name: String { String(decoding: rawName, as: UTF8.self) }
        package var kind: DataType? { DataType(rawValue: type) }
        /// Where the object ends.
        package var end: Int64 { offset + size }
    }

    /// The head of an image: everything before the data.
    package struct Head: Sendable, Equatable {
        /// The first 32 bytes: what a kernel starts.
        package var launch: [UInt8]
        package var architecture: String
        package var identifier: [UInt8]
        package var created: Int64
        package var modified: Int64
        package var tableOffset: Int64
        package var slots: Int
        package var dataOffset: Int64
        /// In the order of their slots.
        package var descriptors: [Descriptor]

        /// The head of a new image; `identifier` are 16 bytes that the caller derives from the content.
        package init(architecture: Architecture, identifier: [UInt8], created: Int64) {
            precondition(identifier.count == 16)
            launch = SingularityImage.padded(Array(launchScript.utf8), to: 32)
            self.architecture = architecture.rawValue
            self.identifier = identifier
            self.created = created
            modified = created
            tableOffset = Int64(descriptorOffset)
            slots = descriptorSlots
            dataOffset = Int64(SingularityImage.dataOffset)
            descriptors = []
        }

        /// Where the last object ends.
        package var end: Int64 { descriptors.map(\.end).max() ?? dataOffset }
    }

    /// The file system partition that a runtime mounts.
    package struct Partition: Sendable, Equatable {
        package var offset: Int64
        package var size: Int64

        package init(offset: Int64, size: Int64) {
            self.offset = offset
            self.size = size
        }
    }

    static func padded(_ bytes: [UInt8], to count: Int) -> [UInt8] {
        Array(bytes.prefix(count)) + [UInt8](repeating: 0, count: max(0, count - bytes.count))
    }

    static func littleEndian(_ value: some FixedWidthInteger) -> [UInt8] {
        withUnsafeBytes(of: value.littleEndian) { Array($0) }
    }
}
