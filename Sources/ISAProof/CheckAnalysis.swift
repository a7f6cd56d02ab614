import CZydis

/// Follows what the CPU said through one function: to branches (checks), to memory, to the caller; and follows the addresses that
/// the function handles to where it gives them away.
/// A class, because its many small steps all work on one large state; nobody else holds it meanwhile.
final class CheckAnalysis {
    /// An address given away.
    struct Reference: Hashable {
        var block: Int
        var address: UInt64
        /// Only on ways that a check opened.
        var isChecked: Bool
        /// Control goes there.
        var transfers: Bool
    }

    private(set) var graph: FlowGraph
    private(set) var summary = CPUKnowledge.Summary()
    /// Bytes and pieces of memory that were found to hold information.
    private(set) var memory = ByteSet()
    private(set) var consequences = ByteSet()
    private(set) var pieces: Set<Int> = []
    private(set) var references: Set<Reference> = []
    /// Registers with information that other functions of the file are given.
    private(set) var passed: [Int: UInt16] = [:]
    private(set) var isAvoidable: [Bool] = []
    /// The same by direct checks alone.
    private var isDecided: [Bool] = []
    /// A conditional move depends on what the CPU said.
    private(set) var choosesByCheck = false

    /// Whether anything here depends on what the CPU said.
    var hasChecks: Bool { choosesByCheck || graph.blocks.contains(where: \.isCheck) }

    private let map: CodeMap
    private let function: Int
    private var knowledge: CPUKnowledge
    private var states: [FlowState?] = []
    private var sets = PointerSets()
    /// Bytes in which an address is kept. The pointer to what a check chose is no check's answer: everybody reads it.
    private var holders = ByteSet()
    /// A callee wrote its results into this function's frame.
    private var hasFrameResults = false
    private var isLast = false
    private var current = 0

    /// Longest seen in the field: question, wrapper, cache.
    private static let deepest = 2

    /// Symbols of other files stand as addresses from here on.
    static let imports: UInt64 = 1 << 62

    /// The other file's symbol that an address stands for.
    static func symbol(_ address: UInt64, _ map: CodeMap) -> Int? {
        guard address >= imports, case let symbol = Int((address - imports) >> 32), symbol < map.file.dynamicSymbols.count else {
            return nil
        }
        return symbol
    }

    /// - Parameter isTaker: the function takes addresses that matter, so that it counts where they go even without a check.
    init(_ function: Int, _ map: CodeMap, _ knowledge: CPUKnowledge, isTaker: Bool) {
        self.map = map
        self.function = function
        self.knowledge = knowledge
        graph = FlowGraph(map.functions[function], in: map)
        isAvoidable = Array(repeating: false, count: graph.blocks.count)
        isDecided = isAvoidable
        follow(isTaker: isTaker)
        // Told on from one to the next, in the end everything would be about the CPU.
        if summary.depth > CheckAnalysis.deepest { summary = CPUKnowledge.Summary() }
        // What was needed on the way is let go; the file's knowledge shall not be copied because somebody still holds it.
        self.knowledge = CPUKnowledge()
        states = []
        isDecided = []
    }

    private func follow(isTaker: Bool) {
        guard !graph.blocks.isEmpty else { return }
        // A check found makes blocks avoidable, which makes what they write information, which may make more checks.
        for _ in 0..<5 {
            let checks = graph.blocks.map(\.check)
            run()
            if checks == graph.blocks.map(\.check) { break }
            isAvoidable = graph.avoidable(.indirect)
            isDecided = graph.avoidable(.direct)
        }
        guard hasChecks || isTaker else { return }
        isLast = true
        run()
        consequences = consequences.subtracting(holders)
    }

    private func run() {
        states = Array(repeating: nil, count: graph.blocks.count)
        states[0] = .start
        let given = knowledge.entries[function] ?? 0
        for register in 0..<16 where given >> UInt16(register) & 1 == 1 { states[0]?.registers[register] = .information }
        var isQueued = Array(repeating: false, count: graph.blocks.count)
        isQueued[0] = true
        for orphan in graph.orphans {
            states[orphan] = FlowState()
            isQueued[orphan] = true
        }
        var isDone = false
        // States grow, but for sets of addresses that became too large; the bound ends those.
        for _ in 0..<200 where !isDone {
            isDone = true
            // In the order of addresses, since most ways lead forward.
            for block in isQueued.indices where isQueued[block] {
                isQueued[block] = false
                let out = pass(block)
                for next in graph.blocks[block].next where arrive(next, opened(block, next, out)) {
                    isQueued[next] = true
                    if next <= block { isDone = false }
                }
            }
        }
    }

    /// The state on a way. Straight from a check to the end, what stands in the registers was chosen by it; elsewhere it may be there
    /// on the other way too.
    private func opened(_ block: Int, _ next: Int, _ state: FlowState) -> FlowState {
        guard graph.blocks[block].isCheck, let last = graph.blocks[next].instructions.last, graph.instructions[last].flow == FlowGraph.ret
        else {
            return state
        }
        return state.checked(&sets)
    }

    /// Runs through a block; gives the state behind it.
    private func pass(_ block: Int) -> FlowState {
        guard var state = states[block] else { return .start }
        current = block
        for index in graph.blocks[block].instructions { step(graph.instructions[index], &state) }
        finish(block, state)
        return isAvoidable[block] ? state.checked(&sets) : state
    }

    /// Takes a state to a block; says whether anything there is new.
    private func arrive(_ block: Int, _ state: FlowState) -> Bool {
        guard states[block] != nil else {
            states[block] = state
            return true
        }
        var lost: [Pointer] = []
        let isNew = states[block]?.merge(state, &sets) { lost.append($0) } ?? false
        for pointer in lost { give(pointer, transfers: false) }
        return isNew
    }

    /// Ends a block: is its last branch a check, and what goes back to the caller?
    private func finish(_ block: Int, _ state: FlowState) {
        guard let last = graph.blocks[block].instructions.last else {
            // The other function gives back what this one would.
            if let other = graph.blocks[block].leavesTo {
                take(knowledge.summaries[other])
                pass(state, to: other)
            }
            return
        }
        let item = graph.instructions[last]
        switch item.flow {
        case FlowGraph.branch:
            graph.blocks[block].check = max(graph.blocks[block].check, state.evidence(FlowState.flags))
        case FlowGraph.jumpIndirect:
            let index = item.memory == 0 ? item.source : item.index
            if index < 16 { graph.blocks[block].check = max(graph.blocks[block].check, state.registers[Int(index)].evidence) }
            if item.memory == 1, let destination = map.slot(item.target) { tail(destination) }
            if item.memory == 0, item.source < 16 { give(state.registers[Int(item.source)], transfers: true) }
            giveTable(item, state)
        case FlowGraph.ret:
            // Other registers hold what is left over, except behind functions that are little more than the question.
            let count = map.functions[function].asks || hasFrameResults ? 16 : 3
            for register in 0..<count where register != 4 && (register != 1 || count == 16) {
                if state.registers[register] == .information { summary.tells |= 1 << UInt16(register) }
            }
            if state.registers[0] == .consequence { summary.hints |= 1 }
            summary.tellsWhere = summary.tellsWhere || state.registers[0] == .informationPointer
            if let address = state.registers[0].address, evidence(address, width: 8, whole: true) == .direct { summary.tellsWhere = true }
            give(state.registers[0], transfers: false)
        default: break
        }
    }

    /// Notes what another function is given.
    private func pass(_ state: FlowState, to other: Int) {
        // One step only: what was given is not given on, or in the end everything would be about the CPU.
        guard knowledge.entries[function] == nil else { return }
        for register in 0..<16 where state.registers[register] == .information { passed[other, default: 0] |= 1 << UInt16(register) }
    }

    private func take(_ other: CPUKnowledge.Summary?) {
        guard let other else { return }
        summary.tells |= other.tells
        summary.hints |= other.hints
        summary.tellsWhere = summary.tellsWhere || other.tellsWhere
        // A jump to another function, as in the procedure linkage table, leaves the parameters where they are.
        summary.fills.merge(other.fills) { $0.union($1) }
        summary.returns.formUnion(other.returns)
        summary.depth = max(summary.depth, other.depth)
    }

    private func tail(_ destination: CodeMap.Destination) {
        switch destination {
        // Behind an indirect function's slot is what its resolver chose, which gives something else back.
        case .function(let other): if !map.functions[other].isResolver { take(knowledge.summaries[other]) }
        case .imported(let symbol): take(knowledge.importedFunctions[symbol])
        case .data: break
        }
    }

    /// Notes that addresses leave the function's own hands here.
    private func give(_ value: FlowValue, transfers: Bool) {
        guard isLast else { return }
        for pointer in sets.pointers(value) { give(pointer, transfers: transfers) }
    }

    /// Notes that something is fetched from a table of which only the place is known.
    private func giveTable(_ item: sciferry_instruction, _ state: FlowState) {
        guard item.memory == 2 else { return }
        for register in [item.base, item.index] where register < 16 { give(state.registers[Int(register)], transfers: false) }
    }

    private func give(_ pointer: Pointer, transfers: Bool) {
        guard isLast else { return }
        references.insert(
            Reference(block: current, address: pointer.address, isChecked: pointer.isChecked || isAvoidable[current], transfers: transfers))
    }

    // MARK: instructions

    private func step(_ item: sciferry_instruction, _ state: inout FlowState) {
        switch item.flow {
        case FlowGraph.call, FlowGraph.callIndirect: return call(item, &state)
        case FlowGraph.next: break
        default: return
        }
        switch item.operation {
        case FlowGraph.query:
            for register in 0..<4 where item.writes >> UInt64(register) & 1 == 1 { state.registers[register] = .information }
        case FlowGraph.address: set(item.destination, effective(item, state) ?? spread(item, state), &state)
        case FlowGraph.constant:
            // What is written only after a check tells what the check found.
            var value: FlowValue = isDecided[current] ? .consequence : .unknown
            if item.memory != 0 { return store(value, item, state: &state) }
            if let address = UInt64(exactly: item.immediate), map.file.type == 2, map.destination(address) != nil {
                value = .address(address, isChecked: isAvoidable[current])
            }
            set(item.destination, value, &state)
            if item.writes & FlowState.flags != 0 { state.set(FlowState.flags, .none) }
        case FlowGraph.move: move(item, &state)
        case FlowGraph.add where item.memory == 0:
            guard item.destination < 16 else { return other(item, &state) }
            let register = Int(item.destination)
            let evidence = state.registers[register].evidence
            state.registers[register] = sets.moved(state.registers[register], by: item.immediate)
            state.set(FlowState.flags, evidence)
        case FlowGraph.align: state.set(FlowState.flags, .none)
        case FlowGraph.push:
            guard case .stack(let place) = state.registers[4] else { return }
            state.registers[4] = .stack(place &- 8)
            let value = item.source < 16 ? state.registers[Int(item.source)] : item.memory != 0 ? load(item, state) : .unknown
            state.stack[place &- 8] = value == .unknown ? nil : value
        case FlowGraph.pop:
            guard case .stack(let place) = state.registers[4] else { return }
            set(item.destination, state.stack[place] ?? .unknown, &state)
            state.registers[4] = .stack(place &+ 8)
        case FlowGraph.choose: choose(item, &state)
        default: other(item, &state)
        }
    }

    private func set(_ register: UInt8, _ value: FlowValue, _ state: inout FlowState) {
        if register < 16 {
            state.registers[Int(register)] = value
        } else if register < 64 {
            state.set(1 << UInt64(register), value.evidence)
        }
    }

    private func value(_ register: UInt8, _ state: FlowState) -> FlowValue {
        if register < 16 { return state.registers[Int(register)] }
        return register < 64 ? state.evidence(1 << UInt64(register)).value : .unknown
    }

    private func move(_ item: sciferry_instruction, _ state: inout FlowState) {
        if item.memory == 0 {
            let moved = value(item.source, state)
            if item.destination >= 16 { give(moved, transfers: false) }
            set(item.destination, moved, &state)
        } else if item.access & 2 != 0 {
            store(value(item.source, state), item, state: &state)
        } else {
            set(item.destination, load(item, state), &state)
        }
    }

    /// A conditional move: when what the CPU said decides, either value comes only by a check.
    private func choose(_ item: sciferry_instruction, _ state: inout FlowState) {
        let check = state.evidence(FlowState.flags)
        var (left, right) = (value(item.destination, state), item.memory == 0 ? value(item.source, state) : load(item, state))
        if check != .none {
            (left, right) = (sets.checked(left), sets.checked(right))
            choosesByCheck = true
            // What was to choose from is done with; left over in its register it might look like a parameter.
            if item.memory == 0, item.source < 16 { state.registers[Int(item.source)] = right }
        }
        var lost: [Pointer] = []
        let merged = sets.merge(left, right) { lost.append($0) }
        for pointer in lost { give(pointer, transfers: false) }
        set(item.destination, sets.pointers(merged).isEmpty ? max(check, merged.evidence).value : merged, &state)
    }

    private func other(_ item: sciferry_instruction, _ state: inout FlowState) {
        var known = state.evidence(item.reads)
        // A number put in only after a check tells what the check found.
        if isDecided[current], item.source == 255, item.writes & ~FlowState.flags | UInt64(item.access & 2) != 0 {
            known = max(known, .indirect)
        }
        for register in 0..<16 where item.reads >> UInt64(register) & 1 == 1 {
            let isPointer = item.memory == 2 && (Int(item.base) == register || Int(item.index) == register)
            if !isPointer || item.access & 1 != 0 { known = max(known, state.registers[register].evidence) }
            // Compared with nothing is not given away.
            if !isPointer, item.writes & ~FlowState.flags != 0 { give(state.registers[register], transfers: false) }
        }
        if item.memory != 0, item.access & 1 != 0 { known = max(known, load(item, state).evidence) }
        for register in 0..<16 where item.writes >> UInt64(register) & 1 == 1 && register != 4 { state.registers[register] = known.value }
        state.set(item.writes & ~0xffff, known)
        if item.access & 2 != 0 { store(known.value, item, state: &state) }
    }

    // MARK: memory

    /// The address of a memory operand, when it is known.
    private func effective(_ item: sciferry_instruction, _ state: FlowState) -> FlowValue? {
        if item.memory == 1 { return item.index == 255 ? .address(item.target, isChecked: isAvoidable[current]) : nil }
        guard item.memory == 2, item.base < 16, item.index == 255, state.registers[Int(item.base)] != .unknown,
            state.registers[Int(item.base)].evidence == .none
        else { return nil }
        return sets.moved(state.registers[Int(item.base)], by: item.displacement)
    }

    /// What an address computed from several registers carries.
    private func spread(_ item: sciferry_instruction, _ state: FlowState) -> FlowValue {
        let parts = [item.base, item.index].filter { $0 < 16 }.map { state.registers[Int($0)] }
        let evidence = parts.map(\.evidence).max() ?? .none
        return evidence == .none && parts.contains(.informationPointer) ? .informationPointer : evidence.value
    }

    private func load(_ item: sciferry_instruction, _ state: FlowState) -> FlowValue {
        if let place = effective(item, state) {
            switch place {
            case .stack(let place):
                return state.stack[place] ?? state.stack.items.first { $0.value.evidence != .none && (-7...7).contains($0.place &- place) }?
                    .value ?? .unknown
            case .informationPointer: return .information
            default:
                let pointers = sets.pointers(place)
                var best = Evidence.none
                for pointer in pointers { best = max(best, evidence(pointer.address, width: item.width, whole: false)) }
                if best != .none { return best.value }
                if pointers.count == 1, let destination = map.slot(pointers[0].address) { return pointer(destination, pointers[0]) }
                return .unknown
            }
        }
        giveTable(item, state)
        // A place in a table: that of the CPU's, or found by what the CPU said.
        let registers = [item.base, item.index].filter { $0 < 16 }.map { state.registers[Int($0)] }
        var best = Evidence.none
        for value in registers {
            best = max(best, value == .informationPointer ? .direct : value.evidence)
            if let address = value.address {
                best = max(best, evidence(address &+ UInt64(bitPattern: item.displacement), width: 64, whole: true))
            }
        }
        return best.value
    }

    private func pointer(_ destination: CodeMap.Destination, _ slot: Pointer) -> FlowValue {
        switch destination {
        case .imported(let symbol):
            return .address(CheckAnalysis.imports + UInt64(symbol) << 32, isChecked: slot.isChecked)
        default:
            guard let relocation = map.relocation(slot.address) else { return .unknown }
            return .address(relocation, isChecked: slot.isChecked)
        }
    }

    /// What the bytes at an address tell; `whole` asks whether anything there does.
    private func evidence(_ address: UInt64, width: UInt8, whole: Bool) -> Evidence {
        if let symbol = CheckAnalysis.symbol(address, map) {
            let place = address & 0xffff_ffff
            func tells(_ bytes: ByteSet?) -> Bool { bytes.map { whole ? !$0.isEmpty : $0.contains(place, width: width) } ?? false }
            return tells(knowledge.importedMemory[symbol]) ? .direct : tells(knowledge.importedConsequences[symbol]) ? .indirect : .none
        }
        if let piece = map.data(at: address), knowledge.pieces.contains(piece) || pieces.contains(piece) { return .direct }
        if knowledge.memory.contains(address, width: width) || memory.contains(address, width: width) { return .direct }
        return knowledge.consequences.contains(address, width: width) || consequences.contains(address, width: width) ? .indirect : .none
    }

    private func store(_ value: FlowValue, _ item: sciferry_instruction, state: inout FlowState) {
        guard let place = effective(item, state) else {
            if value.evidence == .direct {
                // Into a table, or through a pointer that nobody knows.
                for register in [item.base, item.index] where register < 16 {
                    if let address = state.registers[Int(register)].address { markPiece(address) }
                    if case .stack(let place) = state.registers[Int(register)] { state.stack[place &+ item.displacement] = .information }
                }
            }
            return give(value, transfers: false)
        }
        switch place {
        case .stack(let place):
            state.stack[place] = value == .unknown ? nil : value
            if place >= 8, value.evidence == .direct { summary.returns.insert(place) }
        case .parameter(let number, let distance):
            if value.evidence == .direct {
                summary.fills[number, default: ByteSet()].insert(UInt64(bitPattern: distance), width: item.width)
            }
            give(value, transfers: false)
        default:
            if value.evidence != .none {
                for pointer in sets.pointers(place) where pointer.address < CheckAnalysis.imports {
                    if value.evidence == .direct {
                        memory.insert(pointer.address, width: item.width)
                    } else {
                        consequences.insert(pointer.address, width: item.width)
                    }
                }
            } else if !sets.pointers(value).isEmpty {
                for pointer in sets.pointers(place) { holders.insert(pointer.address, width: item.width) }
            }
            give(value, transfers: false)
        }
    }

    private func markPiece(_ address: UInt64) {
        if let piece = map.data(at: address) { pieces.insert(piece) }
    }

    // MARK: calls

    private func call(_ item: sciferry_instruction, _ state: inout FlowState) {
        var callee: CPUKnowledge.Summary?
        if item.flow == FlowGraph.call, let other = map.function(at: item.target) {
            pass(state, to: other)
            callee = knowledge.summaries[other] ?? map.linkage(of: other).flatMap { knowledge.importedFunctions[$0] }
        } else if item.memory == 1, let destination = map.slot(item.target) {
            switch destination {
            case .function(let other): callee = map.functions[other].isResolver ? nil : knowledge.summaries[other]
            case .imported(let symbol): callee = knowledge.importedFunctions[symbol]
            case .data: break
            }
        } else if item.memory == 0, item.source < 16 {
            give(state.registers[Int(item.source)], transfers: true)
        } else {
            giveTable(item, state)
        }
        // Who gets a pointer to the stack sees what lies there.
        let showsStack = FlowState.parameters.contains { if case .stack = state.registers[$0] { true } else { false } }
        if showsStack { for place in state.stack.items { give(place.value, transfers: false) } }
        for (number, register) in FlowState.parameters.enumerated() {
            give(state.registers[register], transfers: false)
            if let filled = callee?.fills[UInt8(number)] { fill(state.registers[register], filled, &state) }
        }
        for register in [0, 1, 2, 6, 7, 8, 9, 10, 11] { state.registers[register] = .unknown }
        state.set(.max, .none)
        guard let callee, !callee.isEmpty else { return }
        summary.depth = max(summary.depth, callee.depth + 1)
        if callee.tellsWhere { state.registers[0] = .informationPointer }
        for register in 0..<16 where register != 4 {
            if callee.tells >> UInt16(register) & 1 == 1 {
                state.registers[register] = .information
            } else if callee.hints >> UInt16(register) & 1 == 1 {
                state.registers[register] = .consequence
            }
        }
        if case .stack(let top) = state.registers[4] {
            hasFrameResults = hasFrameResults || !callee.returns.isEmpty
            for place in callee.returns { state.stack[top &- 8 &+ place] = .information }
        }
    }

    /// Takes what a function wrote to where a parameter points.
    private func fill(_ parameter: FlowValue, _ filled: ByteSet, _ state: inout FlowState) {
        for distance in filled.bytes {
            switch parameter {
            case .stack(let place): state.stack[place &+ Int64(bitPattern: distance)] = .information
            case .parameter(let number, let before):
                summary.fills[number, default: ByteSet()].insert(distance &+ UInt64(bitPattern: before), width: 1)
            default:
                for pointer in sets.pointers(parameter) where pointer.address < CheckAnalysis.imports {
                    memory.insert(pointer.address &+ distance, width: 1)
                }
            }
        }
    }
}
