package import FarmModel

/// The texts that a suite's variables stand for, on the machine that runs it.
package struct SuiteVariables: Sendable {
    private let values: [(name: String, value: String)]

    /// - Parameters:
    ///   - work: the tests' working directory.
    ///   - data: where the suite's datasets lie.
    package init(_ suite: TestSuite, work: String, data: String) {
        values = (suite.variables ?? []).map { variable in
            switch variable.kind {
            case .text: (variable.name, variable.value)
            case .data: (variable.name, variable.value.hasPrefix("/") ? variable.value : "\(data)/\(variable.value)")
            case .output: (variable.name, variable.value.hasPrefix("/") ? variable.value : "\(work)/\(variable.value)")
            }
        }
    }

    /// A text in which variables stand for themselves.
    package init(_ values: [(name: String, value: String)]) { self.values = values }

    /// `${name}` and `$name` replaced, also in what they stand for, ten times at most. `$name` is not replaced where a longer name
    /// goes on, unlike the collection's own runner.
    package func replaced(in text: String) -> String {
        if values.isEmpty || !text.contains("$") { return text }
        var text = text
        for _ in 0..<10 {
            let next = once(text)
            // Names that stand for themselves many times would fill the memory.
            if next == text || next.utf8.count > SuiteVariables.mostBytes { break }
            text = next
        }
        return text
    }

    private static let mostBytes = 4 << 20

    private func once(_ text: String) -> String {
        let bytes = Array(text.utf8)
        var result: [UInt8] = []
        var place = 0
        while place < bytes.count, result.count <= SuiteVariables.mostBytes {
            guard bytes[place] == UInt8(ascii: "$"), place + 1 < bytes.count else {
                result.append(bytes[place])
                place += 1
                continue
            }
            let isBraced = bytes[place + 1] == UInt8(ascii: "{")
            let start = place + (isBraced ? 2 : 1)
            var end = start
            while end < bytes.count, SuiteVariables.isWord(bytes[end]) { end += 1 }
            let name = String(decoding: bytes[start..<end], as: UTF8.self)
            let isClosed = !isBraced || (end < bytes.count && bytes[end] == UInt8(ascii: "}"))
            guard isClosed, let value = values.last(where: { $0.name == name })?.value else {
                result.append(bytes[place])
                place += 1
                continue
            }
            result += value.utf8
            place = isBraced ? end + 1 : end
        }
        return String(decoding: result, as: UTF8.self)
    }

    private static func isWord(_ byte: UInt8) -> Bool {
        byte == UInt8(ascii: "_") || (byte | 0x20 >= UInt8(ascii: "a") && byte | 0x20 <= UInt8(ascii: "z"))
            || (byte >= UInt8(ascii: "0") && byte <= UInt8(ascii: "9"))
    }

    /// Longer names whose beginning is one of some names, as `$name…` in a text: the collection's own runner replaces their beginning.
    package static func prefixed(in text: String, names: Set<String>) -> [String] {
        text.matches(of: /\$([A-Za-z_][A-Za-z0-9_]*)/).map { String($0.output.1) }.filter { word in
            !names.contains(word) && names.contains { !$0.isEmpty && word.hasPrefix($0) }
        }
    }
}
