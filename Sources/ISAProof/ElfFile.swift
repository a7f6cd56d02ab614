import FarmModel

/// What a proof needs of an ELF file (System V gABI, chapters 4 and 5): code, symbols, relocations, notes. Every offset in the
/// file is somebody else's word and is checked before it is followed.
package struct ElfFile: Sendable {
    /// A part of the file that is mapped.
    package struct Section: Sendable {
        package var name: String
        package var type: UInt32
        package var flags: UInt64
        package var address: UInt64
        package var offset: Int
        package var size: Int
        package var link: Int

        package var end: UInt64 { address &+ UInt64(size) }
        var isCode: Bool { type == 1 && flags & 6 == 6 }
        /// Mapped and not code.
        var isData: Bool { flags & 2 != 0 && flags & 4 == 0 && flags & 0x400 == 0 }
    }

    /// A symbol; `section` is 0 when it is defined elsewhere.
    package struct Symbol: Sendable {
        package var name: String
        package var value: UInt64
        package var size: UInt64
        package var type: UInt8
        package var binding: UInt8
        package var section: Int
        package var isDynamic: Bool

        package var isDefined: Bool { section != 0 }
        /// Others may use it by name.
        package var isExported: Bool { isDynamic && isDefined && binding != 0 }
        var isFunction: Bool { type == 2 || type == 10 }
        /// GNU's indirect function: the value is the resolver's address.
        package var isIndirect: Bool { type == 10 }
    }

    /// A relocation that puts an address at `offset`.
    package struct Relocation: Sendable {
        package enum Kind: Sendable { case symbol, relative, resolver }
        package var kind: Kind
        package var offset: UInt64
        /// A place in `dynamicSymbols`, for `.symbol`.
        package var symbol: Int
        package var addend: UInt64
    }

    package let bytes: [UInt8]
    package private(set) var machine: UInt16 = 0
    package private(set) var type: UInt16 = 0
    package private(set) var entry: UInt64 = 0
    package private(set) var sections: [Section] = []
    package private(set) var dynamicSymbols: [Symbol] = []
    package private(set) var staticSymbols: [Symbol] = []
    package private(set) var relocations: [Relocation] = []
    package private(set) var needed: [String] = []
    /// Exported symbols whose version says that they are nobody else's business (`GLIBC_PRIVATE`).
    package private(set) var privateSymbols: Set<String> = []
    /// The levels that GNU's property note demands: bit 0 is x86-64-baseline, bit 1 v2, and so on.
    package private(set) var neededLevels: UInt32 = 0
    /// Where functions begin by the table of frames.
    package private(set) var frames: [UInt64] = []
    /// Functions that run without being called.
    package private(set) var starters: [UInt64] = []

    package static let x86: UInt16 = 62

    /// Whether bytes begin like an ELF file.
    package static func isElf(_ head: some Collection<UInt8>) -> Bool { head.starts(with: [0x7f, 0x45, 0x4c, 0x46]) }

    /// - Throws: `FarmError` with code `elf.invalid` for what is not whole, `elf.kind` for what no program loads.
    package init(_ bytes: [UInt8]) throws {
        self.bytes = bytes
        guard ElfFile.isElf(bytes.prefix(4)), bytes.count >= 64 else { throw ElfFile.invalid("it does not begin like one") }
        guard bytes[4] == 2, bytes[5] == 1 else { throw FarmError("elf.kind", .invalid, "not a 64-bit little-endian ELF file") }
        type = try word16(16)
        machine = try word16(18)
        entry = try word64(24)
        guard type == 2 || type == 3 else { throw FarmError("elf.kind", .invalid, "an object file or core, which nothing loads") }
        try readSegments()
        try readSections()
        try readSymbols()
        try readRelocations()
        try readDynamic()
        readVersions()
        readNotes()
        readFrames()
    }

    private static func invalid(_ what: String) -> FarmError { FarmError("elf.invalid", .corrupt, "not a whole ELF file: \(what)") }

    // MARK: bytes

    func word16(_ offset: Int) throws -> UInt16 { UInt16(truncatingIfNeeded: try word(offset, 2)) }
    func word32(_ offset: Int) throws -> UInt32 { UInt32(truncatingIfNeeded: try word(offset, 4)) }
    func word64(_ offset: Int) throws -> UInt64 { try word(offset, 8) }

    private func word(_ offset: Int, _ count: Int) throws -> UInt64 {
        guard offset >= 0, offset <= bytes.count - count else { throw ElfFile.invalid("it ends before \(offset)") }
        var value: UInt64 = 0
        for index in (0..<count).reversed() { value = value << 8 | UInt64(bytes[offset + index]) }
        return value
    }

    private func place(_ offset: Int) throws -> Int {
        guard let value = Int(exactly: try word64(offset)) else { throw ElfFile.invalid("an offset beyond any file") }
        return value
    }

    private func text(_ offset: Int) -> String {
        guard offset >= 0, offset < bytes.count else { return "" }
        let limit = min(bytes.count, offset + 4096)
        let end = bytes[offset..<limit].firstIndex(of: 0) ?? limit
        return String(decoding: bytes[offset..<end], as: UTF8.self)
    }

    /// Whether the file's data hold a text, alone or at the end of a path.
    func mentions(_ text: String) -> Bool {
        let wanted = Array(text.utf8)
        guard let first = wanted.first else { return false }
        return sections.contains { section in
            guard section.isData, section.type == 1 else { return false }
            let part = bytes[section.offset..<(section.offset + section.size)]
            var place = part.startIndex
            while let next = part[place...].firstIndex(of: first) {
                let end = next + wanted.count
                let isWord =
                    (next == part.startIndex || [0, UInt8(ascii: "/")].contains(part[next - 1])) && end < part.endIndex && part[end] == 0
                if isWord, part[next...].starts(with: wanted) { return true }
                place = next + 1
            }
            return false
        }
    }

    /// Where a mapped address lies in the file; `nil` when it is not there.
    package func offset(of address: UInt64) -> Int? {
        guard let section = section(at: address), section.type != 8 else { return nil }
        return section.offset + Int(address - section.address)
    }

    /// The mapped section that holds an address.
    package func section(at address: UInt64) -> Section? {
        // Sections stand in the order of their addresses once they are mapped.
        var low = 0
        var high = mapped.count
        while low < high {
            let middle = (low + high) / 2
            if mapped[middle].address <= address { low = middle + 1 } else { high = middle }
        }
        guard low > 0, address < mapped[low - 1].end else { return nil }
        return mapped[low - 1]
    }

    private var mapped: [Section] = []

    // MARK: reading

    private mutating func readSegments() throws {
        let (offset, size, count) = (try place(32), Int(try word16(54)), Int(try word16(56)))
        guard count == 0 || size >= 56 else { throw ElfFile.invalid("its program headers are too short") }
        guard offset <= bytes.count else { throw ElfFile.invalid("its program headers lie beyond its end") }
        segments = (offset, size, count)
    }

    private var segments = (offset: 0, size: 0, count: 0)

    private mutating func readSections() throws {
        let (offset, size, count, names) = (try place(40), Int(try word16(58)), Int(try word16(60)), Int(try word16(62)))
        // A program whose headers were cut off still runs.
        if offset > 0, count > 0, size >= 64, offset <= bytes.count, count * size <= bytes.count - offset {
            var total = 0
            for index in 0..<count {
                let base = offset + index * size
                let type = try word32(base + 4)
                // What has no bytes in the file has no place there either.
                let isEmpty = type == 0 || type == 8
                let section = Section(
                    name: String(try word32(base)), type: type, flags: try word64(base + 8), address: try word64(base + 16),
                    offset: isEmpty ? 0 : try place(base + 24), size: type == 0 ? 0 : try place(base + 32), link: Int(try word32(base + 40))
                )
                guard isEmpty || (section.offset <= bytes.count && section.size <= bytes.count - section.offset) else {
                    throw ElfFile.invalid("section \(index) lies beyond its end")
                }
                guard section.size <= 1 << 40 else { throw ElfFile.invalid("section \(index) is larger than any") }
                if !isEmpty { total += section.size }
                sections.append(section)
            }
            guard total <= 2 * bytes.count else { throw ElfFile.invalid("its sections share their bytes") }
            if sections.indices.contains(names) {
                let table = sections[names]
                for index in sections.indices { sections[index].name = text(table.offset + (Int(sections[index].name) ?? 0)) }
            }
        } else {
            // Some programs lose their section headers; what is mapped as code is code.
            for index in 0..<segments.count {
                let base = segments.offset + index * segments.size
                guard try word32(base) == 1 else { continue }
                let (flags, start, length) = (try word32(base + 4), try place(base + 8), try place(base + 32))
                guard start <= bytes.count, length <= bytes.count - start else { throw ElfFile.invalid("a segment lies beyond its end") }
                sections.append(
                    Section(
                        name: "", type: 1, flags: flags & 1 != 0 ? 6 : 2, address: try word64(base + 16), offset: start, size: length,
                        link: 0))
            }
        }
        mapped = sections.filter { $0.flags & 2 != 0 && $0.flags & 0x400 == 0 && $0.size > 0 }.sorted { $0.address < $1.address }
        guard mapped.allSatisfy({ $0.end > $0.address }) else { throw ElfFile.invalid("a section lies beyond the address space") }
        for (left, right) in zip(mapped, mapped.dropFirst()) where left.end > right.address || left.end < left.address {
            throw ElfFile.invalid("its sections overlap")
        }
    }

    private mutating func readSymbols() throws {
        // A file has one of each.
        for section in [2, 11].compactMap({ type in sections.first { $0.type == type } }) {
            guard sections.indices.contains(section.link) else { continue }
            let names = sections[section.link].offset
            for index in 0..<(section.size / 24) {
                let base = section.offset + index * 24
                let info = bytes[base + 4]
                let symbol = Symbol(
                    name: text(names + Int(try word32(base))), value: try word64(base + 8), size: try word64(base + 16), type: info & 15,
                    binding: info >> 4, section: Int(try word16(base + 6)), isDynamic: section.type == 11)
                if section.type == 11 { dynamicSymbols.append(symbol) } else { staticSymbols.append(symbol) }
            }
        }
    }

    private mutating func readRelocations() throws {
        for section in sections where section.type == 4 && section.flags & 2 != 0 {
            for index in 0..<(section.size / 24) {
                let base = section.offset + index * 24
                let info = try word64(base + 8)
                guard let kind = kind(UInt32(truncatingIfNeeded: info)) else { continue }
                let symbol = Int(info >> 32)
                guard kind != .symbol || dynamicSymbols.indices.contains(symbol) else { continue }
                relocations.append(Relocation(kind: kind, offset: try word64(base), symbol: symbol, addend: try word64(base + 16)))
            }
        }
        try readPackedRelocations()
    }

    private func kind(_ type: UInt32) -> Relocation.Kind? {
        switch (machine, type) {
        case (ElfFile.x86, 1), (ElfFile.x86, 6), (ElfFile.x86, 7): .symbol
        case (ElfFile.x86, 8): .relative
        case (ElfFile.x86, 37): .resolver
        default: nil
        }
    }

    /// DT_RELR: addresses, and bitmaps of the words behind them (gABI, "Relative relocation").
    private mutating func readPackedRelocations() throws {
        for section in sections where section.type == 19 {
            var next: UInt64 = 0
            for index in 0..<(section.size / 8) {
                let word = try word64(section.offset + index * 8)
                if word & 1 == 0 {
                    addPacked(word)
                    next = word &+ 8
                } else {
                    for bit in 1..<64 where word >> UInt64(bit) & 1 == 1 { addPacked(next &+ UInt64(bit - 1) &* 8) }
                    next &+= 63 * 8
                }
            }
        }
    }

    private mutating func addPacked(_ address: UInt64) {
        guard let place = offset(of: address), let value = try? word64(place) else { return }
        relocations.append(Relocation(kind: .relative, offset: address, symbol: 0, addend: value))
    }

    private mutating func readDynamic() throws {
        var arrays: [(address: UInt64, size: UInt64)] = []
        for section in sections where section.type == 6 {
            guard sections.indices.contains(section.link) else { continue }
            let names = sections[section.link].offset
            var values: [UInt64: UInt64] = [:]
            for index in 0..<(section.size / 16) {
                let (tag, value) = (try word64(section.offset + index * 16), try word64(section.offset + index * 16 + 8))
                if tag == 0 { break }
                switch tag {
                case 1: needed.append(text(names + Int(truncatingIfNeeded: min(value, 1 << 32))))
                case 12, 13: starters.append(value)
                default: values[tag] = value
                }
            }
            for (address, size) in [(25, 27), (26, 28), (32, 33)] as [(UInt64, UInt64)] {
                if let start = values[address], let length = values[size] { arrays.append((start, length)) }
            }
        }
        for section in sections where [14, 15, 16].contains(section.type) { arrays.append((section.address, UInt64(section.size))) }
        let slots = Dictionary(relocations.map { ($0.offset, $0) }) { first, _ in first }
        for array in arrays.prefix(16) where array.size <= 1 << 20 {
            for address in stride(from: array.address, to: array.address &+ array.size, by: 8) {
                if let relocation = slots[address] {
                    starters.append(
                        relocation.kind == .symbol ? dynamicSymbols[relocation.symbol].value &+ relocation.addend : relocation.addend)
                } else if let place = offset(of: address) {
                    starters.append(try word64(place))
                }
            }
        }
    }

    /// Versions of symbols (LSB, "Symbol versioning").
    private mutating func readVersions() {
        guard let table = sections.first(where: { $0.type == 0x6fff_ffff }),
            let definitions = sections.first(where: { $0.type == 0x6fff_fffd }),
            sections.indices.contains(definitions.link)
        else { return }
        var secret: Set<UInt16> = []
        var position = definitions.offset
        while position + 20 <= definitions.offset + definitions.size, let number = try? word16(position + 4),
            let names = try? word32(position + 12), let next = try? word32(position + 16)
        {
            if let name = try? word32(position + Int(names)), text(sections[definitions.link].offset + Int(name)).contains("PRIVATE") {
                secret.insert(number)
            }
            guard next > 0 else { break }
            position += Int(next)
        }
        guard !secret.isEmpty else { return }
        for (index, symbol) in dynamicSymbols.enumerated() where symbol.isDefined && index * 2 + 2 <= table.size {
            if let number = try? word16(table.offset + index * 2), secret.contains(number & 0x7fff) { privateSymbols.insert(symbol.name) }
        }
    }

    /// `.note.gnu.property` (x86-64 psABI, "Program Property"): which levels the file demands.
    private mutating func readNotes() {
        for section in sections where section.type == 7 {
            var position = section.offset
            let end = section.offset + section.size
            while position + 12 <= end, let nameSize = try? word32(position), let size = try? word32(position + 4),
                let kind = try? word32(position + 8)
            {
                let start = position + 12 + (Int(nameSize) + 3) & ~3
                guard nameSize < 1 << 20, size < 1 << 24, start + Int(size) <= end else { break }
                if kind == 5, text(position + 12) == "GNU" { readProperties(start, start + Int(size)) }
                position = (start + Int(size) + 7) & ~7
            }
        }
    }

    private mutating func readProperties(_ start: Int, _ end: Int) {
        var position = start
        while position + 8 <= end, let type = try? word32(position), let size = try? word32(position + 4), size < 1 << 20 {
            if machine == ElfFile.x86, type == 0xc000_8002, size >= 4, let bits = try? word32(position + 8) { neededLevels |= bits }
            position += 8 + (Int(size) + 7) & ~7
        }
    }

    /// `.eh_frame_hdr` (LSB, "Exception frames"): a sorted table of where functions begin.
    private mutating func readFrames() {
        guard let section = sections.first(where: { $0.name == ".eh_frame_hdr" && $0.type == 1 }), section.size >= 12,
            bytes[section.offset] == 1, bytes[section.offset + 2] == 3, bytes[section.offset + 3] == 0x3b,
            let count = try? word32(section.offset + 8), Int(count) <= (section.size - 12) / 8
        else { return }
        frames.reserveCapacity(Int(count))
        for index in 0..<Int(count) {
            guard let relative = try? word32(section.offset + 12 + index * 8) else { return }
            frames.append(section.address &+ UInt64(bitPattern: Int64(Int32(bitPattern: relative))))
        }
    }
}
