/// What a register or a place on the stack may hold, as far as it matters here.
enum FlowValue: Equatable {
    case unknown
    /// Something that the CPU said of itself, or what was computed from it.
    case information
    /// What was written only where such information led. Of what it leads to in turn nothing more is concluded: sooner or later
    /// everything that a program does follows from something.
    case consequence
    /// Points to information.
    case informationPointer
    /// What the caller gave in that place, and a distance added to it.
    case parameter(UInt8, Int64)
    /// An address on the function's own stack.
    case stack(Int64)
    /// An address in the file; `isChecked` when it comes here only on ways that a check opened.
    case address(UInt64, isChecked: Bool)
    /// One of several addresses, by the set's number.
    case oneOf(Int32)

    /// How well it is known to come from the CPU.
    var evidence: Evidence {
        switch self {
        case .information: .direct
        case .consequence: .indirect
        default: .none
        }
    }

    /// The one address, when there is but one.
    var address: UInt64? {
        guard case .address(let address, _) = self else { return nil }
        return address
    }
}

/// How well something is known to come from the CPU.
enum Evidence: UInt8, Comparable {
    case none, indirect, direct

    static func < (left: Evidence, right: Evidence) -> Bool { left.rawValue < right.rawValue }

    var value: FlowValue {
        switch self {
        case .none: .unknown
        case .indirect: .consequence
        case .direct: .information
        }
    }
}

/// An address, and whether it comes only by a check.
struct Pointer: Equatable, Hashable {
    var address: UInt64
    var isChecked: Bool
}

/// Sets of addresses by number, so that values stay small.
struct PointerSets {
    private var sets: [[Pointer]] = []
    private var numbers: [[Pointer]: Int32] = [:]

    /// A set larger than this says nothing any more.
    private static let largest = 64

    /// The addresses that a value may be.
    func pointers(_ value: FlowValue) -> [Pointer] {
        switch value {
        case .address(let address, let isChecked): [Pointer(address: address, isChecked: isChecked)]
        case .oneOf(let number): sets[Int(number)]
        default: []
        }
    }

    /// A value for addresses, sorted; `nil` for too many.
    private mutating func value(_ pointers: [Pointer]) -> FlowValue? {
        if pointers.count == 1 { return .address(pointers[0].address, isChecked: pointers[0].isChecked) }
        guard pointers.count <= PointerSets.largest else { return nil }
        if let number = numbers[pointers] { return .oneOf(number) }
        let number = Int32(sets.count)
        sets.append(pointers)
        numbers[pointers] = number
        return .oneOf(number)
    }

    /// The value when either may be there. Addresses that are lost thereby are given to `lose`.
    mutating func merge(_ left: FlowValue, _ right: FlowValue, _ lose: (Pointer) -> Void) -> FlowValue {
        if left == right { return left }
        let (own, others) = (pointers(left), pointers(right))
        let evidence = max(left.evidence, right.evidence)
        // A number that a check chose instead of an address is mostly zero, for none.
        if evidence == .direct || evidence == .indirect && own.isEmpty && others.isEmpty {
            for pointer in own + others { lose(pointer) }
            return evidence.value
        }
        // Held on one of the ways is held, for whoever uses it.
        if !own.isEmpty || !others.isEmpty {
            var united = own
            for pointer in others {
                if let index = united.firstIndex(where: { $0.address == pointer.address }) {
                    united[index].isChecked = united[index].isChecked && pointer.isChecked
                } else {
                    united.append(pointer)
                }
            }
            if let value = value(united.sorted { $0.address < $1.address }) { return value }
            for pointer in united { lose(pointer) }
            return .unknown
        }
        return left == .informationPointer || right == .informationPointer ? .informationPointer : .unknown
    }

    /// The value behind a check.
    mutating func checked(_ value: FlowValue) -> FlowValue {
        switch value {
        case .address(let address, false): .address(address, isChecked: true)
        case .oneOf: map(value) { Pointer(address: $0.address, isChecked: true) }
        default: value
        }
    }

    /// The value with a distance added to every address.
    mutating func moved(_ value: FlowValue, by distance: Int64) -> FlowValue {
        switch value {
        case .stack(let place): .stack(place &+ distance)
        case .parameter(let number, let before): .parameter(number, before &+ distance)
        case .address(let address, let isChecked): .address(address &+ UInt64(bitPattern: distance), isChecked: isChecked)
        case .oneOf: map(value) { Pointer(address: $0.address &+ UInt64(bitPattern: distance), isChecked: $0.isChecked) }
        default: value
        }
    }

    private mutating func map(_ old: FlowValue, _ change: (Pointer) -> Pointer) -> FlowValue {
        value(pointers(old).map(change).sorted { $0.address < $1.address }) ?? .unknown
    }
}

/// The registers and the stack at a place in a function.
struct FlowState {
    /// General registers by number.
    var registers = InlineArray<16, FlowValue>(repeating: .unknown)
    /// Other registers that hold information or its consequences, by their bits; bit 16 is the flags.
    private(set) var others: UInt64 = 0
    /// Those of them that hold information.
    private(set) var direct: UInt64 = 0
    /// What matters of the stack, by distance from where it stood at the start.
    var stack = StackPlaces()

    /// The state at a function's start.
    static var start: FlowState {
        var state = FlowState()
        state.registers[4] = .stack(0)
        for (number, register) in parameters.enumerated() { state.registers[register] = .parameter(UInt8(number), 0) }
        return state
    }

    /// Registers that carry parameters, in order (System V ABI): rdi, rsi, rdx, rcx, r8, r9.
    static let parameters = [7, 6, 2, 1, 8, 9]

    static let flags: UInt64 = 1 << 16

    /// What the registers of a mask tell at best.
    func evidence(_ mask: UInt64) -> Evidence { direct & mask != 0 ? .direct : others & mask != 0 ? .indirect : .none }

    /// Sets what registers other than the general ones tell.
    mutating func set(_ mask: UInt64, _ evidence: Evidence) {
        if evidence == .none { others &= ~mask } else { others |= mask }
        if evidence == .direct { direct |= mask } else { direct &= ~mask }
    }

    /// Unites with the state of another way here. Pointers that are lost thereby are given to `lose`.
    /// - Returns: whether anything changed.
    mutating func merge(_ other: FlowState, _ sets: inout PointerSets, lose: (Pointer) -> Void) -> Bool {
        var hasChanged = others | other.others != others || direct | other.direct != direct
        others |= other.others
        direct |= other.direct
        for index in 0..<16 where registers[index] != other.registers[index] {
            let merged = sets.merge(registers[index], other.registers[index], lose)
            if merged != registers[index] {
                registers[index] = merged
                hasChanged = true
            }
        }
        return stack.merge(other.stack, &sets, lose) || hasChanged
    }

    /// With every pointer marked: it comes along a way that a check opened.
    func checked(_ sets: inout PointerSets) -> FlowState {
        var result = self
        for index in 0..<16 { result.registers[index] = sets.checked(registers[index]) }
        result.stack.markChecked(&sets)
        return result
    }
}

/// What matters of a function's stack, in the order of places.
struct StackPlaces {
    struct Item: Equatable {
        var place: Int64
        var value: FlowValue
    }

    private(set) var items: [Item] = []

    /// More than that no function holds of what matters; a pointer that finds no place counts as handed on where it is taken.
    private static let most = 256

    subscript(_ place: Int64) -> FlowValue? {
        get {
            let (index, isThere) = index(place)
            return isThere ? items[index].value : nil
        }
        set {
            let (index, isThere) = index(place)
            if let newValue, newValue != .unknown {
                if !isThere {
                    guard items.count < StackPlaces.most else { return }
                    items.insert(Item(place: place, value: newValue), at: index)
                } else if items[index].value != newValue {
                    items[index].value = newValue
                }
            } else if isThere {
                items.remove(at: index)
            }
        }
    }

    private func index(_ place: Int64) -> (index: Int, isThere: Bool) {
        let index = items.firstIndex { $0.place >= place } ?? items.count
        return (index, index < items.count && items[index].place == place)
    }

    mutating func merge(_ other: StackPlaces, _ sets: inout PointerSets, _ lose: (Pointer) -> Void) -> Bool {
        guard items != other.items else { return false }
        var result: [Item] = []
        var (left, right) = (0, 0)
        while left < items.count || right < other.items.count {
            let place = min(left < items.count ? items[left].place : .max, right < other.items.count ? other.items[right].place : .max)
            var (own, others) = (FlowValue.unknown, FlowValue.unknown)
            if left < items.count, items[left].place == place {
                own = items[left].value
                left += 1
            }
            if right < other.items.count, other.items[right].place == place {
                others = other.items[right].value
                right += 1
            }
            let merged = sets.merge(own, others, lose)
            if merged != .unknown { result.append(Item(place: place, value: merged)) }
        }
        guard result != items else { return false }
        items = result
        return true
    }

    mutating func markChecked(_ sets: inout PointerSets) {
        for index in items.indices {
            let marked = sets.checked(items[index].value)
            if marked != items[index].value { items[index].value = marked }
        }
    }
}
