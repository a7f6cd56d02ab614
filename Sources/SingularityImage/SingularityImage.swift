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

    package static let launchScript = "#!/usr/bin/env run-singularity\n"
    package static let magic = "SIF_MAGIC\0"
    package static let version = "01\0"

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
    }

    /// Processor architectures as the format numbers them.
    package enum Architecture: String, Sendable, CaseIterable {
        case x86_64 = "02"
        case aarch64 = "04"
        case ppc64le = "06"
        case riscv64 = "12"

        /// The architecture of a kernel's machine name.
        package init?(machine: String) {
            switch machine {
            case "x86_64": self = .x86_64
            case "aarch64": self = .aarch64
            case "ppc64le": self = .ppc64le
            case "riscv64": self = .riscv64
            default: return nil
            }
        }
    }

    /// One entry of the descriptor table.
    package struct Descriptor: Sendable, Equatable {
        package var type: Int32
        package var id: UInt32
        package var offset: Int64
        package var size: Int64
        package var name: String
        /// The first bytes of the type-specific part.
        package var extra: [UInt8]

        package init(type: DataType, id: UInt32, offset: Int64, size: Int64, name: String, extra: [UInt8]) {
            self.type = type.rawValue
            self.id = id
            self.offset = offset
            self.size = size
            self.name = name
            self.extra = extra
        }
    }

    /// The head of an image: everything before the data.
    package struct Head: Sendable, Equatable {
        package var architecture: String
        package var identifier: [UInt8]
        package var created: Int64
        package var descriptors: [Descriptor]
        package var dataSize: Int64
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
}
