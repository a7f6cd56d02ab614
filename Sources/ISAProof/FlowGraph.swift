import CZydis

/// The basic blocks of one function and the ways between them.
struct FlowGraph {
    struct Block {
        /// Places in `instructions`.
        var instructions: Range<Int>
        /// Blocks that may come next. Two ways of a branch stay two, even to the same block.
        var next: [Int] = []
        /// Which of the ways is taken depends on what the CPU said.
        var check = Evidence.none
        var isCheck: Bool { check != .none }
        /// The other function in which a jump ends; such a block has no instructions.
        var leavesTo: Int?
    }

    private(set) var instructions: [sciferry_instruction] = []
    var blocks: [Block] = []

    /// Whoever writes checks writes them in smaller functions.
    private static let most = 200_000

    init(_ function: CodeMap.Function, in map: CodeMap) {
        guard let offset = map.file.offset(of: function.start) else { return }
        let size = min(Int(function.end - function.start), map.file.bytes.count - offset)
        // Nobody's checks; without blocks a function counts as one piece.
        guard size <= FlowGraph.most * 4 else { return }
        instructions = map.file.bytes.withUnsafeBufferPointer { bytes in
            [sciferry_instruction](unsafeUninitializedCapacity: min(size, FlowGraph.most)) { buffer, count in
                count = sciferry_x86_decode(bytes.baseAddress.map { $0 + offset }, size, function.start, buffer.baseAddress, buffer.count)
            }
        }
        makeBlocks(function, map)
    }

    private mutating func makeBlocks(_ function: CodeMap.Function, _ map: CodeMap) {
        guard !instructions.isEmpty else { return }
        var leaders: Set<UInt64> = [instructions[0].address]
        var tables: [Int: [UInt64]] = [:]
        var ways = 0
        for (index, item) in instructions.enumerated() where item.flow != FlowGraph.next {
            // A call ends its block, since it may not come back.
            leaders.insert(item.address &+ UInt64(item.length))
            if item.flow == FlowGraph.call || item.flow == FlowGraph.callIndirect { continue }
            if item.flow == FlowGraph.jump || item.flow == FlowGraph.branch { leaders.insert(item.target) }
            if item.flow == FlowGraph.jumpIndirect, item.memory != 1 {
                guard ways < FlowGraph.most else { continue }
                tables[index] = jumpTable(before: index, function, map)
                ways += tables[index]?.count ?? 0
                leaders.formUnion(tables[index] ?? [])
            }
        }
        var places: [UInt64: Int] = [:]
        var start = 0
        for index in instructions.indices where index > start && leaders.contains(instructions[index].address) {
            places[instructions[start].address] = blocks.count
            blocks.append(Block(instructions: start..<index))
            start = index
        }
        places[instructions[start].address] = blocks.count
        blocks.append(Block(instructions: start..<instructions.count))
        for index in blocks.indices {
            let last = blocks[index].instructions.upperBound - 1
            let item = instructions[last]
            let after = places[item.address &+ UInt64(item.length)]
            switch item.flow {
            case FlowGraph.jump: blocks[index].next = [places[item.target] ?? leave(to: item.target, map)].compactMap { $0 }
            case FlowGraph.branch: blocks[index].next = [places[item.target] ?? leave(to: item.target, map), after].compactMap { $0 }
            case FlowGraph.jumpIndirect: blocks[index].next = (tables[last] ?? []).compactMap { places[$0] }
            case FlowGraph.ret, FlowGraph.stop: break
            default:
                if endsWithoutReturn(blocks[index], isLast: after == nil, map) { break }
                blocks[index].next = [after ?? leave(to: item.address &+ UInt64(item.length), map)].compactMap { $0 }
            }
        }
        findOrphans()
        predecessors = Array(repeating: [], count: blocks.count)
        for (index, block) in blocks.enumerated() { for next in block.next { predecessors[next].append(index) } }
    }

    /// What nothing is seen to lead to, such as landing pads and targets of tables that were not understood: something may.
    private(set) var orphans: [Int] = []

    private mutating func findOrphans() {
        var isReached = Array(repeating: false, count: blocks.count)
        for root in blocks.indices where !isReached[root] && (root == 0 || !isPadding(blocks[root])) {
            if root > 0 { orphans.append(root) }
            var work = [root]
            isReached[root] = true
            while let block = work.popLast() {
                for next in blocks[block].next where !isReached[next] {
                    isReached[next] = true
                    work.append(next)
                }
            }
        }
    }

    /// Functions that do not come back.
    private static let endings: Set<String> = [
        "exit", "_exit", "_Exit", "quick_exit", "abort", "__stack_chk_fail", "__chk_fail", "__fortify_fail", "__assert_fail",
        "_Unwind_Resume",
        "__cxa_throw", "__cxa_rethrow", "__cxa_bad_cast", "longjmp", "siglongjmp", "__longjmp_chk", "err", "errx", "verr", "verrx",
        "pthread_exit", "__libc_start_main", "_ZSt9terminatev", "_ZSt17__throw_bad_allocv", "_gfortran_stop_string", "_gfortran_os_error",
    ]

    /// Whether a block ends with a call that does not come back: of a known function, or at the very end, where nothing stands to come
    /// back to.
    private func endsWithoutReturn(_ block: Block, isLast: Bool, _ map: CodeMap) -> Bool {
        guard let index = block.instructions.last(where: { instructions[$0].operation != FlowGraph.nothing }) else { return false }
        let item = instructions[index]
        switch item.flow {
        case FlowGraph.call:
            if isLast { return true }
            guard let callee = map.function(at: item.target) else { return false }
            return FlowGraph.endings.contains(map.linkage(of: callee).map(map.symbolName) ?? map.name(callee))
        case FlowGraph.callIndirect:
            if item.memory == 1, case .imported(let symbol)? = map.slot(item.target) {
                return FlowGraph.endings.contains(map.symbolName(symbol))
            }
            return isLast
        default: return false
        }
    }

    /// A block that stands for the start of another function.
    private mutating func leave(to target: UInt64, _ map: CodeMap) -> Int? {
        guard let other = map.function(at: target) else { return nil }
        blocks.append(Block(instructions: 0..<0, leavesTo: other))
        return blocks.count - 1
    }

    private func isPadding(_ block: Block) -> Bool {
        block.instructions.allSatisfy { instructions[$0].operation == FlowGraph.nothing }
    }

    /// The targets of a jump through a table of distances, which lies where a `lea` shortly before points.
    private func jumpTable(before index: Int, _ function: CodeMap.Function, _ map: CodeMap) -> [UInt64] {
        for earlier in instructions[max(0, index - 24)..<index].reversed() {
            if earlier.operation == FlowGraph.address, earlier.memory == 1 {
                var targets: [UInt64] = []
                // What somebody else points to is no longer this table.
                let piece = map.data(at: earlier.target)
                while targets.count < 4096, map.data(at: earlier.target &+ UInt64(targets.count) &* 4) == piece,
                    let place = map.file.offset(of: earlier.target &+ UInt64(targets.count) &* 4),
                    let distance = try? map.file.word32(place)
                {
                    let target = earlier.target &+ UInt64(bitPattern: Int64(Int32(bitPattern: distance)))
                    guard target >= function.start, target < function.end else { break }
                    targets.append(target)
                }
                if !targets.isEmpty { return targets }
            } else if earlier.memory == 2 || earlier.memory == 1, earlier.index != 255, earlier.displacement > 0, map.file.type == 2 {
                if let targets = absoluteTable(UInt64(earlier.displacement), function, map) { return targets }
            }
        }
        let own = instructions[index]
        return own.memory != 0 && own.displacement > 0 ? absoluteTable(UInt64(own.displacement), function, map) ?? [] : []
    }

    private func absoluteTable(_ start: UInt64, _ function: CodeMap.Function, _ map: CodeMap) -> [UInt64]? {
        var targets: [UInt64] = []
        let piece = map.data(at: start)
        while targets.count < 4096, map.data(at: start &+ UInt64(targets.count) &* 8) == piece,
            let place = map.file.offset(of: start &+ UInt64(targets.count) &* 8), let target = try? map.file.word64(place),
            target >= function.start, target < function.end
        { targets.append(target) }
        return targets.isEmpty ? nil : targets
    }

    // MARK: reaching

    /// Whether the start leads to one of these blocks whatever the checks answer: at a check both ways would have to lead there,
    /// elsewhere one. What this gives `false` for some CPU never runs.
    func isInevitable(_ goals: some Sequence<Int>) -> Bool { reaches(goals, .indirect).start }

    /// The same when every branch, whatever it depends on, might be a check.
    func isCertain(_ goals: some Sequence<Int>) -> Bool { reaches(goals, .none).start }

    /// Whether some answer of the checks keeps all these blocks from running, as far as the ways to them are known.
    func isAvoidable(_ goals: some Sequence<Int>) -> Bool {
        let reached = reaches(goals, .indirect)
        return !reached.start && !reached.orphans
    }

    private func reaches(_ goals: some Sequence<Int>, _ least: Evidence) -> (start: Bool, orphans: Bool) {
        guard !blocks.isEmpty else { return (false, false) }
        var search = Search(self, least)
        return search.reached(from: goals)
    }

    /// Walks back from blocks to the start.
    private struct Search {
        let isCheck: [Bool]
        let ways: [Int32]
        let predecessors: [[Int]]
        let orphans: [Int]
        private var open: [Int32]
        private var isReached: [Bool]
        private var touched: [Int] = []

        init(_ graph: FlowGraph, _ least: Evidence) {
            isCheck = graph.blocks.map { $0.check >= least }
            ways = graph.blocks.map { Int32($0.next.count) }
            predecessors = graph.predecessors
            orphans = graph.orphans
            open = ways
            isReached = Array(repeating: false, count: ways.count)
        }

        mutating func reached(from goals: some Sequence<Int>) -> (start: Bool, orphans: Bool) {
            var work = Array(goals)
            for goal in work { isReached[goal] = true }
            touched = work
            defer {
                for block in touched {
                    isReached[block] = false
                    open[block] = ways[block]
                }
            }
            while let block = work.popLast() {
                for previous in predecessors[block] where !isReached[previous] {
                    open[previous] -= 1
                    touched.append(previous)
                    if !isCheck[previous] || open[previous] == 0 {
                        isReached[previous] = true
                        work.append(previous)
                    }
                }
            }
            return (isReached[0], orphans.contains { isReached[$0] })
        }
    }

    /// For every block the blocks before it, one mention for each way.
    private(set) var predecessors: [[Int]] = []

    /// Blocks that some answer of the checks avoids, of those known at least so well.
    func avoidable(_ least: Evidence) -> [Bool] {
        // Beyond the bound nothing is claimed to be avoidable.
        guard blocks.count <= 10_000, blocks.contains(where: { $0.check >= least }) else {
            return Array(repeating: false, count: blocks.count)
        }
        var search = Search(self, least)
        return blocks.indices.map { block in
            let reached = search.reached(from: CollectionOfOne(block))
            return !reached.start && !reached.orphans
        }
    }
}

extension FlowGraph {
    static let next = UInt8(SCIFERRY_FLOW_NEXT.rawValue)
    static let call = UInt8(SCIFERRY_FLOW_CALL.rawValue)
    static let callIndirect = UInt8(SCIFERRY_FLOW_CALL_INDIRECT.rawValue)
    static let jump = UInt8(SCIFERRY_FLOW_JUMP.rawValue)
    static let jumpIndirect = UInt8(SCIFERRY_FLOW_JUMP_INDIRECT.rawValue)
    static let branch = UInt8(SCIFERRY_FLOW_BRANCH.rawValue)
    static let ret = UInt8(SCIFERRY_FLOW_RETURN.rawValue)
    static let stop = UInt8(SCIFERRY_FLOW_STOP.rawValue)
    static let move = UInt8(SCIFERRY_OPERATION_MOVE.rawValue)
    static let address = UInt8(SCIFERRY_OPERATION_ADDRESS.rawValue)
    static let constant = UInt8(SCIFERRY_OPERATION_CONSTANT.rawValue)
    static let add = UInt8(SCIFERRY_OPERATION_ADD.rawValue)
    static let align = UInt8(SCIFERRY_OPERATION_ALIGN.rawValue)
    static let push = UInt8(SCIFERRY_OPERATION_PUSH.rawValue)
    static let pop = UInt8(SCIFERRY_OPERATION_POP.rawValue)
    static let choose = UInt8(SCIFERRY_OPERATION_CHOOSE.rawValue)
    static let nothing = UInt8(SCIFERRY_OPERATION_NOTHING.rawValue)
    static let query = UInt8(SCIFERRY_OPERATION_QUERY.rawValue)
}
