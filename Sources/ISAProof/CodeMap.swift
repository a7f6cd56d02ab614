import CZydis
import FarmModel

/// The functions of a file, what they need of the CPU, and what leads from one to another, by one pass over its code.
struct CodeMap {
    struct Function {
        var start: UInt64
        var end: UInt64
        /// What it needs beyond the baseline.
        var features = FeatureSet()
        /// Features with the first instruction that needs each.
        var places: [(feature: UInt16, address: UInt64)] = []
        /// Whether it asks the CPU what it can.
        var asks = false
        /// Whether it chooses what an indirect function stands for.
        var isResolver = false
    }

    /// Where something in a function points.
    enum Destination: Hashable {
        case function(Int)
        case data(Int)
        /// By a place in the file's dynamic symbols; another file has it.
        case imported(Int)
    }

    /// A step from a function. `transfers` when control goes there; else its address is taken or its memory used.
    struct Edge {
        var address: UInt64
        var destination: Destination
        var transfers: Bool
        /// The function gets a pointer to it, from which it may reach further.
        var isPointer = false
    }

    let file: ElfFile
    private(set) var functions: [Function] = []
    private(set) var names: [UInt64: String] = [:]
    /// By function, in the order of addresses.
    private(set) var edges: [[Edge]] = []
    /// Where pieces of data begin.
    private(set) var dataStarts: [UInt64] = []
    /// What symbols say of the sizes of pieces.
    private var dataSizes: [UInt64: UInt64] = [:]
    /// What addresses lie in a piece of data.
    private(set) var contents: [Int: [Destination]] = [:]
    private var slots: [UInt64: ElfFile.Relocation] = [:]
    /// Bytes of code.
    private(set) var codeBytes = 0

    init(_ file: ElfFile) throws {
        self.file = file
        slots = Dictionary(file.relocations.map { ($0.offset, $0) }) { first, _ in first }
        var starts = knownStarts()
        let facts = try scan(starts)
        // Hand-written code often says nothing of where its functions begin, but somebody calls them.
        let called = facts.lazy.filter { [FactKind.call, .jump, .address].contains($0.sort) }.map(\.target).filter { target in
            file.section(at: target)?.isCode ?? false
        }
        starts = CodeMap.unique(starts + called)
        makeFunctions(starts)
        makeDataStarts(facts)
        makeEdges(facts)
        makeContents()
    }

    private static func unique(_ addresses: some Sequence<UInt64>) -> [UInt64] {
        var result = addresses.sorted()
        var last: UInt64?
        result.removeAll { address in
            defer { last = address }
            return address == last
        }
        return result
    }

    // MARK: functions

    private mutating func knownStarts() -> [UInt64] {
        var starts = file.frames + file.starters + [file.entry]
        for symbol in file.staticSymbols + file.dynamicSymbols where symbol.isDefined {
            guard symbol.isFunction || symbol.type == 0, file.section(at: symbol.value)?.isCode ?? false else { continue }
            if !symbol.name.isEmpty, !symbol.name.hasPrefix(".L") {
                starts.append(symbol.value)
                if names[symbol.value] == nil || symbol.binding != 0 { names[symbol.value] = symbol.name }
            }
        }
        for relocation in file.relocations where relocation.kind == .resolver { starts.append(relocation.addend) }
        for section in file.sections where section.isCode && (section.name.hasPrefix(".plt") || section.name == ".iplt") {
            starts += stride(from: section.address, to: section.end, by: 16)
        }
        return CodeMap.unique(starts.filter { file.section(at: $0)?.isCode ?? false })
    }

    private mutating func makeFunctions(_ starts: [UInt64]) {
        functions.reserveCapacity(starts.count)
        for (index, start) in starts.enumerated() {
            guard let section = file.section(at: start) else { continue }
            let next = index + 1 < starts.count ? starts[index + 1] : section.end
            functions.append(Function(start: start, end: min(next, section.end)))
        }
        edges = Array(repeating: [], count: functions.count)
        for symbol in file.staticSymbols + file.dynamicSymbols where symbol.isIndirect && symbol.isDefined {
            if let index = function(at: symbol.value) { functions[index].isResolver = true }
        }
        for relocation in file.relocations where relocation.kind == .resolver {
            if let index = function(at: relocation.addend) { functions[index].isResolver = true }
        }
    }

    /// The function that holds an address.
    func function(at address: UInt64) -> Int? {
        guard let index = CodeMap.last(functions, { $0.start <= address }), address < functions[index].end else { return nil }
        return index
    }

    /// The last place of a sorted array where a condition still holds.
    static func last<T>(_ items: [T], _ holds: (T) -> Bool) -> Int? {
        var low = 0
        var high = items.count
        while low < high {
            let middle = (low + high) / 2
            if holds(items[middle]) { low = middle + 1 } else { high = middle }
        }
        return low > 0 ? low - 1 : nil
    }

    /// A function's name, or where it lies.
    func name(_ index: Int) -> String {
        let start = functions[index].start
        return names[start] ?? "function at 0x\(String(start, radix: 16))"
    }

    // MARK: facts

    private mutating func scan(_ starts: [UInt64]) throws -> [sciferry_fact] {
        try ImageProof.requireDecoder()
        var result: [sciferry_fact] = []
        // A program that is not relocated writes addresses as plain numbers.
        let mapped = file.type == 2 ? file.sections.filter { $0.isCode || $0.isData } : []
        for section in file.sections.filter(\.isCode).sorted(by: { $0.address < $1.address }) {
            var facts = sciferry_facts()
            defer { sciferry_facts_free(&facts) }
            let done = file.bytes.withUnsafeBufferPointer { bytes in
                starts.withUnsafeBufferPointer { starts in
                    sciferry_x86_scan(
                        bytes.baseAddress.map { $0 + section.offset }, section.size, section.address, starts.baseAddress, starts.count,
                        mapped.map(\.address).min() ?? 0, mapped.map(\.end).max() ?? 0, &facts)
                }
            }
            guard done != 0 else { throw FarmError("isa.memory", .unavailable, "memory is short for a file's code") }
            result += UnsafeBufferPointer(start: facts.items, count: facts.count)
            codeBytes += section.size

        }
        return result
    }

    private mutating func makeDataStarts(_ facts: [sciferry_fact]) {
        var starts = file.relocations.filter { $0.kind == .relative }.map(\.addend)
        starts += facts.lazy.filter { [FactKind.address, .memory].contains($0.sort) }.map(\.target)
        for symbol in file.staticSymbols + file.dynamicSymbols where symbol.isDefined && symbol.type == 1 {
            starts.append(symbol.value)
            dataSizes[symbol.value] = max(dataSizes[symbol.value] ?? 0, symbol.size)
        }
        starts += file.sections.filter(\.isData).map(\.address)
        dataStarts = CodeMap.unique(starts.filter { file.section(at: $0)?.isData ?? false })
    }

    /// The piece of data that holds an address.
    func data(at address: UInt64) -> Int? {
        guard file.section(at: address)?.isData ?? false else { return nil }
        return CodeMap.last(dataStarts) { $0 <= address }
    }

    /// Pieces of data from whose start a byte may be reached, and how far it is: what a symbol says is smaller ends before.
    func pieces(reaching address: UInt64) -> [(piece: Int, distance: UInt64)] {
        guard let piece = data(at: address) else { return [] }
        var result: [(piece: Int, distance: UInt64)] = []
        for near in stride(from: piece, through: 0, by: -1) {
            let distance = address - dataStarts[near]
            guard distance <= 512 else { break }
            if let size = dataSizes[dataStarts[near]], size > 0, distance >= size { continue }
            result.append((near, distance))
        }
        return result
    }

    /// What lies at an address.
    func destination(_ address: UInt64) -> Destination? {
        function(at: address).map { .function($0) } ?? data(at: address).map { .data($0) }
    }

    /// What the slot at an address leads to, once the file is loaded.
    func slot(_ address: UInt64) -> Destination? {
        guard let relocation = slots[address] else { return nil }
        switch relocation.kind {
        case .relative, .resolver: return destination(relocation.addend)
        case .symbol:
            let symbol = file.dynamicSymbols[relocation.symbol]
            return symbol.isDefined ? destination(symbol.value &+ relocation.addend) : .imported(relocation.symbol)
        }
    }

    /// The address in this file that the slot at an address will hold.
    func relocation(_ address: UInt64) -> UInt64? {
        guard let relocation = slots[address] else { return nil }
        guard relocation.kind == .symbol else { return relocation.addend }
        let symbol = file.dynamicSymbols[relocation.symbol]
        return symbol.isDefined ? symbol.value &+ relocation.addend : nil
    }

    func symbolName(_ symbol: Int) -> String { file.dynamicSymbols[symbol].name }

    /// The symbol of another file to which a function of the procedure linkage table leads.
    func linkage(of function: Int) -> Int? {
        // A lazy one goes on to the dynamic linker when its slot is not filled yet.
        guard let edge = edges[function].first, edges[function].count <= 2, functions[function].end - functions[function].start <= 16,
            edge.transfers, case .imported(let symbol) = edge.destination
        else { return nil }
        return symbol
    }

    private mutating func makeEdges(_ facts: [sciferry_fact]) {
        var current = 0
        for fact in facts {
            while current < functions.count, functions[current].end <= fact.address { current += 1 }
            guard current < functions.count, functions[current].start <= fact.address else { continue }
            func add(_ destination: Destination?, transfers: Bool, isPointer: Bool = false) {
                guard let destination, destination != .function(current) else { return }
                edges[current].append(Edge(address: fact.address, destination: destination, transfers: transfers, isPointer: isPointer))
            }
            switch fact.sort {
            case .feature:
                functions[current].features.insert(Int(fact.feature))
                functions[current].places.append((fact.feature, fact.address))
            case .call, .jump: add(function(at: fact.target).map { .function($0) }, transfers: true)
            case .callSlot, .jumpSlot:
                // A slot that the program itself fills leads where nobody knows.
                if let destination = slot(fact.target) {
                    add(destination, transfers: true)
                } else {
                    add(self.destination(fact.target), transfers: false)
                }
            case .address: add(destination(fact.target), transfers: false, isPointer: true)
            case .memory:
                let pointed = slot(fact.target)
                add(pointed ?? destination(fact.target), transfers: false, isPointer: pointed != nil)
            case .query: functions[current].asks = true
            }
        }
        for index in functions.indices { functions[index].places = CodeMap.firsts(functions[index].places) }
    }

    private static func firsts(_ places: [(feature: UInt16, address: UInt64)]) -> [(feature: UInt16, address: UInt64)] {
        var seen: Set<UInt16> = []
        return places.filter { seen.insert($0.feature).inserted }
    }

    private mutating func makeContents() {
        for relocation in file.relocations {
            // Slots of the global offset table are read one by one.
            if file.section(at: relocation.offset)?.name.hasPrefix(".got") ?? false { continue }
            guard let piece = data(at: relocation.offset), let destination = slot(relocation.offset) else { continue }
            contents[piece, default: []].append(destination)
        }
        guard file.type == 2 else { return }
        // A program that is not relocated holds its functions' addresses as plain words.
        for section in file.sections where section.isData && section.type == 1 {
            for offset in stride(from: 0, to: section.size - 7, by: 8) {
                guard let word = try? file.word64(section.offset + offset), let target = function(at: word),
                    functions[target].start == word,
                    let piece = data(at: section.address &+ UInt64(offset))
                else { continue }
                contents[piece, default: []].append(.function(target))
            }
        }
    }
}

/// What a scan notices; `sciferry_fact_kind` in Swift.
private enum FactKind: UInt16 {
    case feature = 1
    case call, jump, callSlot, jumpSlot, address, memory, query
}

extension sciferry_fact {
    fileprivate var sort: FactKind { FactKind(rawValue: kind) ?? .memory }
}

/// Features by number, at most 128.
struct FeatureSet: Hashable, Sendable {
    private var low: UInt64 = 0
    private var high: UInt64 = 0

    init(_ numbers: some Sequence<Int> = []) { for number in numbers { insert(number) } }

    var isEmpty: Bool { low == 0 && high == 0 }
    var numbers: [Int] { (0..<128).filter(contains) }

    func contains(_ number: Int) -> Bool { (number < 64 ? low >> UInt64(number) : high >> UInt64(number - 64)) & 1 == 1 }

    mutating func insert(_ number: Int) {
        if number < 64 { low |= 1 << UInt64(number) } else { high |= 1 << UInt64(number - 64) }
    }

    mutating func formUnion(_ other: FeatureSet) {
        low |= other.low
        high |= other.high
    }

    func subtracting(_ other: FeatureSet) -> FeatureSet {
        var result = self
        result.low &= ~other.low
        result.high &= ~other.high
        return result
    }
}
