import CZydis

/// How the functions of one file that need more than the target are reached.
struct FileProof {
    /// How a function that needs more than the target comes to run.
    enum Reach: Int, Comparable {
        /// Only on ways that a check of the CPU opened.
        case checked
        /// Nothing in the file leads there.
        case unreferenced
        /// The file offers it, and nothing in the image uses it.
        case offered
        /// Its address is handed about without a check; who calls it, and when, is not seen.
        case handedOn
        /// No check was recognised on the way, but other conditions stand there, and the file does check the CPU elsewhere: what it
        /// learnt may have come here over memory that was not followed.
        case unrecognised
        /// As below, but by instructions that stand there because somebody wanted them.
        case deliberate
        /// Control goes there whatever the CPU says.
        case unconditional

        static func < (left: Reach, right: Reach) -> Bool { left.rawValue < right.rawValue }
    }

    let map: CodeMap
    private let allowed: FeatureSet
    private(set) var knowledge = CPUKnowledge()
    /// Functions with checks of the CPU, and those that take the address of what goes beyond the target.
    private(set) var analyses: [Int: CheckAnalysis] = [:]

    /// Which functions lead to a function or a piece of data.
    private var users: [CodeMap.Destination: [Int]] = [:]
    /// Which functions get a pointer to a piece of data.
    private var pointers: [Int: [Int]] = [:]

    /// Those that are found first matter most; behind them stand ever longer chains.
    private static let mostAnalyses = 6_000

    /// - Parameters:
    ///   - allowed: features that the target has.
    ///   - shared: what other files of the image tell about the CPU.
    init(_ map: CodeMap, allowed: FeatureSet, shared: SharedKnowledge) {
        self.map = map
        self.allowed = allowed
        for (index, edges) in map.edges.enumerated() {
            for edge in edges {
                users[edge.destination, default: []].append(index)
                if case .data(let piece) = edge.destination, edge.isPointer { pointers[piece, default: []].append(index) }
            }
        }
        var work = map.functions.indices.filter { map.functions[$0].asks }
        for (index, symbol) in map.file.dynamicSymbols.enumerated() where !symbol.isDefined {
            if let summary = shared.functions[symbol.name] { knowledge.importedFunctions[index] = summary }
            knowledge.importedMemory[index] = shared.memory[symbol.name]
            knowledge.importedConsequences[index] = shared.consequences[symbol.name]
            guard shared.names(symbol.name) else { continue }
            for user in users[.imported(index)] ?? [] {
                work += [user] + (map.linkage(of: user) == nil ? [] : users[.function(user)] ?? [])
            }
        }
        analyse(work)
        for (function, analysis) in analyses { analysedSteps[function] = steps(function, analysis) }
    }

    /// Whether anything in the file looks at what the CPU can.
    var hasChecks: Bool { analyses.values.contains(where: \.hasChecks) }

    /// Functions that may read some of these bytes: those that point shortly before them, or access memory right there.
    private func readers(_ bytes: ByteSet) -> Set<Int> {
        var (pointed, accessed): (Set<Int>, Set<Int>) = ([], [])
        for address in bytes.addresses {
            for (piece, distance) in map.pieces(reaching: address) {
                pointed.insert(piece)
                if distance < 32 { accessed.insert(piece) }
            }
        }
        return Set(pointed.flatMap { pointers[$0] ?? [] } + accessed.flatMap { users[.data($0)] ?? [] })
    }

    /// Functions from which something beyond the target may be reached.
    private func before() -> Set<Int> {
        var holders: [CodeMap.Destination: [Int]] = [:]
        for (piece, destinations) in map.contents { for destination in destinations { holders[destination, default: []].append(piece) } }
        var result: Set<Int> = []
        var pieces: Set<Int> = []
        var work = map.functions.indices.filter { !map.functions[$0].features.subtracting(allowed).isEmpty }.map(
            CodeMap.Destination.function)
        while let destination = work.popLast() {
            switch destination {
            case .function(let function): guard result.insert(function).inserted else { continue }
            case .data(let piece): guard pieces.insert(piece).inserted else { continue }
            case .imported: continue
            }
            work += (users[destination] ?? []).map { .function($0) }
            work += (holders[destination] ?? []).map { .data($0) }
        }
        return result
    }

    /// Functions that take the address of what goes beyond the target, or of data that holds it.
    private func takers() -> Set<Int> {
        func isWanted(_ function: Int) -> Bool { !map.functions[function].features.subtracting(allowed).isEmpty }
        func isWanted(_ destination: CodeMap.Destination) -> Bool {
            switch destination {
            case .function(let function): isWanted(function)
            case .data(let piece):
                (map.contents[piece] ?? []).contains { if case .function(let function) = $0 { isWanted(function) } else { false } }
            case .imported: false
            }
        }
        return Set(map.functions.indices.filter { function in map.edges[function].contains { !$0.transfers && isWanted($0.destination) } })
    }

    private mutating func analyse(_ first: [Int]) {
        let isBefore = before()
        let takers = takers()
        var queued = Set(first).union(takers)
        var work = queued.sorted()
        var done = 0
        // First come, first served: what one function finds is then known to many at once.
        while done < min(work.count, FileProof.mostAnalyses) {
            let function = work[done]
            done += 1
            queued.remove(function)
            let analysis = CheckAnalysis(function, map, knowledge, isTaker: takers.contains(function))
            analyses[function] = (analysis.hasChecks || takers.contains(function)) && !analysis.graph.blocks.isEmpty ? analysis : nil
            var affected: [Int] = []
            if knowledge.summaries[function] ?? .init() != analysis.summary {
                knowledge.summaries[function] = analysis.summary
                affected += users[.function(function)] ?? []
            }
            for piece in analysis.pieces.subtracting(knowledge.pieces) { affected += users[.data(piece)] ?? [] }
            knowledge.pieces.formUnion(analysis.pieces)
            let bytes = analysis.memory.subtracting(knowledge.memory)
            let consequences = analysis.consequences.subtracting(knowledge.consequences)
            knowledge.memory.formUnion(bytes)
            knowledge.consequences.formUnion(consequences)
            // Whoever took the address of what holds the bytes may read them from there.
            affected += readers(bytes)
            // Consequences lead to no more knowledge, only to checks; they matter before code that goes beyond.
            affected += readers(consequences).filter(isBefore.contains)
            for (other, registers) in analysis.passed where isBefore.contains(other) {
                let before = knowledge.entries[other] ?? 0
                guard registers & ~before != 0 else { continue }
                knowledge.entries[other] = before | registers
                affected.append(other)
            }
            // What it writes it has seen itself.
            for other in affected where other != function && queued.insert(other).inserted { work.append(other) }
        }
    }

    // MARK: reaching

    /// Functions from which code that goes beyond the target is reached, whatever the checks answer, by calls and jumps alone.
    ///
    /// - Parameter isCertain: whatever any branch decides, not only those that are known for checks.
    private func inevitable(isCertain: Bool = false) -> Set<Int> {
        var graphs: [Int: FlowGraph] = [:]
        var result: Set<Int> = []
        var work = map.functions.indices.filter { !map.functions[$0].features.subtracting(allowed).isEmpty }
        while let function = work.popLast() {
            if result.contains(function) { continue }
            let leads: Bool
            if isCertain {
                let graph = analyses[function]?.graph ?? graphs[function] ?? FlowGraph(map.functions[function], in: map)
                graphs[function] = graph
                leads = graph.isCertain(goalBlocks(graph, result))
            } else if let analysis = analyses[function] {
                leads = analysis.graph.isInevitable(goalBlocks(analysis.graph, result))
            } else {
                leads =
                    !map.functions[function].features.subtracting(allowed).isEmpty
                    || map.edges[function].contains { $0.transfers && FileProof.isIn($0.destination, result) }
            }
            guard leads else { continue }
            result.insert(function)
            work += users[.function(function)] ?? []
        }
        return result
    }

    private static func isIn(_ destination: CodeMap.Destination, _ functions: Set<Int>) -> Bool {
        guard case .function(let index) = destination else { return false }
        return functions.contains(index)
    }

    /// Blocks that need more than allowed, or that go to one of the functions.
    private func goalBlocks(_ graph: FlowGraph, _ goals: Set<Int>) -> [Int] {
        graph.blocks.indices.filter { block in
            if let other = graph.blocks[block].leavesTo { return goals.contains(other) }
            return graph.blocks[block].instructions.contains { index in
                let item = graph.instructions[index]
                if item.feature != 0, !allowed.contains(Int(item.feature)) { return true }
                if item.flow == FlowGraph.call { return map.function(at: item.target).map(goals.contains) ?? false }
                guard item.flow == FlowGraph.callIndirect || item.flow == FlowGraph.jumpIndirect, item.memory == 1 else { return false }
                return map.slot(item.target).map { FileProof.isIn($0, goals) } ?? false
            }
        }
    }

    /// A step to a function or piece of data, and how sure it is that it is taken.
    private struct Step {
        var destination: CodeMap.Destination
        var transfers: Bool
        var isChecked: Bool
        /// Of functions that were analysed.
        var function = -1
        var block = -1
    }

    /// All steps out of a function.
    private func steps(_ function: Int) -> [Step] {
        analysedSteps[function]
            ?? map.edges[function].map {
                Step(destination: $0.destination, transfers: $0.transfers || map.functions[function].isResolver, isChecked: false)
            }
    }

    /// Steps out of functions that were analysed.
    private var analysedSteps: [Int: [Step]] = [:]

    private func steps(_ function: Int, _ analysis: CheckAnalysis) -> [Step] {
        let graph = analysis.graph
        // Where addresses are taken that were followed to where they are given away.
        let given = Set(analysis.references.compactMap { map.destination($0.address) })
        let taken = Set(
            graph.instructions.filter { $0.operation == FlowGraph.address || $0.operation == FlowGraph.constant }.map(\.address))
        var result: [Step] = []
        // Which block an address lies in.
        let starts = graph.blocks.indices.filter { !graph.blocks[$0].instructions.isEmpty }
            .map { (address: graph.instructions[graph.blocks[$0].instructions.lowerBound].address, block: $0) }.sorted {
                $0.address < $1.address
            }
        for edge in map.edges[function] {
            guard let place = CodeMap.last(starts, { $0.address <= edge.address }) else { continue }
            let block = starts[place].block
            let isChecked = analysis.isAvoidable[block]
            if edge.transfers {
                result.append(
                    Step(
                        destination: edge.destination, transfers: true, isChecked: isChecked || leavesChecked(edge, analysis),
                        function: function, block: block))
            } else {
                // What the data holds may be fetched here; an address that is given away stands among the references.
                result.append(
                    Step(
                        destination: edge.destination, transfers: false,
                        isChecked: isChecked || taken.contains(edge.address) && given.contains(edge.destination), function: function,
                        block: block))
            }
        }
        for reference in analysis.references {
            guard
                let destination = CheckAnalysis.symbol(reference.address, map).map({ .imported($0) }) ?? map.destination(reference.address)
            else { continue }
            let transfers = reference.transfers || (map.functions[function].isResolver && map.function(at: reference.address) != nil)
            result.append(
                Step(
                    destination: destination, transfers: transfers, isChecked: reference.isChecked, function: function,
                    block: reference.block))
        }
        return result
    }

    /// A jump out of the function on one way of a check.
    private func leavesChecked(_ edge: CodeMap.Edge, _ analysis: CheckAnalysis) -> Bool {
        guard case .function(let other) = edge.destination else { return false }
        let exits = analysis.graph.blocks.indices.filter { analysis.graph.blocks[$0].leavesTo == other }
        return !exits.isEmpty && exits.allSatisfy { analysis.isAvoidable[$0] }
    }

    /// Where control may come from outside.
    struct Roots {
        /// Functions that run, or that other files of the image use.
        var sure: [Int] = []
        /// Functions that the file offers and nobody in the image uses.
        var offered: [Int] = []
        /// Functions that other files of the image use only behind a check.
        var checked: [Int] = []
    }

    /// How a function beyond what is allowed is reached.
    struct Found {
        var function: Int
        var reach: Reach
        /// Functions on the way, the first one first.
        var way: [Int]
    }

    /// How each function that goes beyond the target is reached, and by which way.
    func reach(_ roots: Roots) -> [Found] {
        // Nothing in the file checks the CPU, so whatever is handed on is used.
        let isUnaware = !hasChecks
        let wanted = map.functions.indices.filter { !map.functions[$0].features.subtracting(allowed).isEmpty }
        guard !wanted.isEmpty else { return [] }
        let inevitable = inevitable()
        // Both ways of a check may go beyond the target.
        let forced = analyses.filter { inevitable.contains($0.key) }.mapValues { forcedBlocks($0, inevitable) }
        func certain(_ roots: [Int]) -> [Int: Int] {
            walk(isUnaware ? roots : roots.filter(inevitable.contains)) { step in
                let isForced = !step.isChecked || forced[step.function]?.contains(step.block) ?? false
                return isUnaware || step.transfers && isForced && FileProof.isIn(step.destination, inevitable)
            }
        }
        let sure = certain(roots.sure)
        let checked = walk(roots.sure + roots.offered + roots.checked) { _ in true }
        let handed = walk(roots.sure) { !$0.isChecked }
        let offered = walk(roots.offered) { !$0.isChecked }
        let certainly = isUnaware ? sure : certainly(roots, sure, wanted)
        let walks: [(Reach, [Int: Int])] = [
            (.unconditional, certainly), (.unrecognised, sure), (.handedOn, handed), (.offered, offered), (.checked, checked),
        ]
        return wanted.map { function in
            if !ownsInevitable(function) { return Found(function: function, reach: .checked, way: [function]) }
            for (reach, walk) in walks where walk[function] != nil {
                return Found(function: function, reach: reach, way: FileProof.way(to: function, walk))
            }
            return Found(function: function, reach: .unreferenced, way: [function])
        }
    }

    /// In a file that checks the CPU somewhere: what is reached whatever any branch decides. When many of the file's functions go
    /// beyond the target without a check, it was built so as a whole, and all that is reached counts.
    private func certainly(_ roots: Roots, _ sure: [Int: Int], _ wanted: [Int]) -> [Int: Int] {
        let sizeable = map.functions.filter { $0.end - $0.start >= 128 }.count
        let beyond = wanted.filter { sure[$0] != nil && map.functions[$0].end - map.functions[$0].start >= 128 }.count
        if beyond >= 8, beyond * 10 >= sizeable { return sure }
        guard !sure.isEmpty else { return [:] }
        let certain = inevitable(isCertain: true)
        let forced = analyses.filter { certain.contains($0.key) }.mapValues { forcedBlocks($0, certain) }
        return walk(roots.sure.filter(certain.contains)) { step in
            let isForced = !step.isChecked || forced[step.function]?.contains(step.block) ?? false
            return step.transfers && isForced && FileProof.isIn(step.destination, certain)
        }
    }

    /// Blocks beyond the target to which a function leads whatever its checks answer: single ones, or several that no answer avoids
    /// at once.
    private func forcedBlocks(_ analysis: CheckAnalysis, _ goals: Set<Int>) -> Set<Int> {
        let blocks = goalBlocks(analysis.graph, goals)
        let single = blocks.filter { !analysis.isAvoidable[$0] }
        return Set(single.isEmpty && analysis.graph.isInevitable(blocks) ? blocks : single)
    }

    /// Whether the function's own instructions, not only those of functions that it calls, run whatever the checks answer.
    private func ownsInevitable(_ function: Int) -> Bool {
        guard let analysis = analyses[function] else { return true }
        return !analysis.graph.isAvoidable(goalBlocks(analysis.graph, []))
    }

    private static func way(to function: Int, _ walk: [Int: Int]) -> [Int] {
        var way = [function]
        while let last = way.last, let previous = walk[last], previous != last, way.count < 64 { way.append(previous) }
        return way.reversed()
    }

    /// Functions found from roots, with the function before each.
    private func walk(_ roots: [Int], _ isTaken: (Step) -> Bool) -> [Int: Int] {
        var found: [Int: Int] = [:]
        var seen: Set<Int> = []
        var work: [Int] = []
        for root in roots where found[root] == nil {
            found[root] = root
            work.append(root)
        }
        while let function = work.popLast() {
            for step in steps(function) where isTaken(step) {
                var pending = [step.destination]
                while let destination = pending.popLast() {
                    switch destination {
                    case .function(let next):
                        if found[next] == nil {
                            found[next] = function
                            work.append(next)
                        }
                    case .data(let piece): if seen.insert(piece).inserted { pending += map.contents[piece] ?? [] }
                    case .imported: break
                    }
                }
            }
        }
        return found
    }

    /// Which symbols of other files are used without a check, by name.
    var importsWithoutCheck: Set<String> {
        var result: Set<Int> = []
        var seen: Set<Int> = []
        let linkages = Dictionary(map.functions.indices.compactMap { index in map.linkage(of: index).map { (index, $0) } }) { first, _ in
            first
        }
        for function in map.functions.indices where linkages[function] == nil {
            for step in steps(function) where !step.isChecked {
                switch step.destination {
                case .imported(let symbol): result.insert(symbol)
                case .function(let other): if let symbol = linkages[other] { result.insert(symbol) }
                case .data(let piece):
                    var pending = [piece]
                    while let piece = pending.popLast() {
                        guard seen.insert(piece).inserted else { continue }
                        for destination in map.contents[piece] ?? [] {
                            if case .imported(let symbol) = destination { result.insert(symbol) }
                            if case .data(let further) = destination { pending.append(further) }
                        }
                    }
                }
            }
        }
        return Set(result.map { map.file.dynamicSymbols[$0].name })
    }

    // MARK: roots

    /// Functions that run by themselves, and all that a program's first function names.
    var starters: [Int] {
        var result = map.file.starters.compactMap(map.function)
        for relocation in map.file.relocations where relocation.kind == .resolver {
            if let resolver = map.function(at: relocation.addend) { result.append(resolver) }
        }
        if let entry = map.file.entry == 0 ? nil : map.function(at: map.file.entry) {
            result.append(entry)
            for edge in map.edges[entry] { if case .function(let function) = edge.destination { result.append(function) } }
        }
        return result
    }

    /// Exported functions by name.
    var exports: [String: Int] {
        var result: [String: Int] = [:]
        for symbol in map.file.dynamicSymbols where symbol.isExported && !symbol.name.isEmpty {
            if let function = map.function(at: symbol.value), map.functions[function].start == symbol.value {
                result[symbol.name] = function
            }
        }
        return result
    }

    /// Whether a library keeps a symbol for its own files, by the version that it gives it.
    func isPrivate(_ name: String) -> Bool { map.file.privateSymbols.contains(name) }

    /// Functions that nothing else in the file leads to.
    func isUnused(_ function: Int, referenced: Set<Int>) -> Bool {
        (users[.function(function)] ?? []).isEmpty && !referenced.contains(function)
    }

    /// Functions whose address lies in data.
    var heldByData: Set<Int> {
        Set(map.contents.values.joined().compactMap { if case .function(let index) = $0 { index } else { nil } })
    }

    /// What this file tells others about the CPU.
    var shared: SharedKnowledge {
        var result = SharedKnowledge()
        for (name, function) in exports {
            // What comes from afar is some other question's answer, such as the size of a cache.
            guard !map.functions[function].isResolver, var summary = knowledge.summaries[function], summary.depth <= 1 else { continue }
            summary.hints = 0
            if !summary.isEmpty { result.functions[name] = summary }
        }
        for symbol in map.file.dynamicSymbols where symbol.isExported && symbol.type == 1 && symbol.size < 1 << 20 {
            var bytes = knowledge.memory.part(symbol.value, symbol.size)
            if map.data(at: symbol.value).map(knowledge.pieces.contains) ?? false {
                for byte in 0..<min(symbol.size, 4096) { bytes.insert(byte, width: 1) }
            }
            if !bytes.isEmpty { result.memory[symbol.name] = bytes }
            let consequences = knowledge.consequences.part(symbol.value, symbol.size)
            if !consequences.isEmpty { result.consequences[symbol.name] = consequences }
        }
        return result
    }
}

/// What files of an image tell each other about the CPU, by names of symbols.
struct SharedKnowledge: Equatable {
    var functions: [String: CPUKnowledge.Summary] = [:]
    /// Distances from the symbol's start.
    var memory: [String: ByteSet] = [:]
    var consequences: [String: ByteSet] = [:]

    /// Whether a symbol tells anything.
    func names(_ symbol: String) -> Bool { functions[symbol] != nil || memory[symbol] != nil || consequences[symbol] != nil }

    /// Symbols of which more is known than before.
    func news(since earlier: SharedKnowledge) -> Set<String> {
        Set(functions.filter { earlier.functions[$0.key] != $0.value }.keys)
            .union(memory.filter { earlier.memory[$0.key] != $0.value }.keys)
            .union(consequences.filter { earlier.consequences[$0.key] != $0.value }.keys)
    }

    mutating func formUnion(_ other: SharedKnowledge) {
        functions.merge(other.functions) { first, _ in first }
        memory.merge(other.memory) { $0.union($1) }
        consequences.merge(other.consequences) { $0.union($1) }
    }
}
