package import FarmModel

/// What came out of running one functional test.
package struct TestObservation: Sendable {
    package var exitCode: Int32
    package var output: String
    package var timedOut: Bool
    /// It was ended because it held more memory than it may.
    package var outOfMemory: Bool
    package var seconds: Double
    /// The most memory that its processes held together, as far as it was seen; 0 where nobody looked.
    package var memoryBytes: Int64

    package init(
        exitCode: Int32, output: String, timedOut: Bool = false, outOfMemory: Bool = false, seconds: Double = 0, memoryBytes: Int64 = 0
    ) {
        self.exitCode = exitCode
        self.output = output
        self.timedOut = timedOut
        self.outOfMemory = outOfMemory
        self.seconds = seconds
        self.memoryBytes = memoryBytes
    }
}

/// The files that a test left, as a check sees them. Paths are relative to the tests' working directory, or absolute inside the image.
package protocol TestFiles: Sendable {
    func exists(_ path: String) throws -> Bool
    /// Throws `test.no-file` for one that is not there, and what is wrong with one that cannot be read.
    func read(_ path: String) throws -> [UInt8]
    /// Files whose paths match a pattern with `*`, `?` and `**`, sorted.
    func matching(_ pattern: String) throws -> [String]
}

extension FunctionalTest {
    /// Compares what was seen with what was expected. Every deviation is named, not only the first.
    ///
    /// - Parameter variables: what the suite's variables stand for in expectations.
    package func judge(_ seen: TestObservation, files: some TestFiles, variables: SuiteVariables = SuiteVariables([])) -> TestOutcome {
        var problems = judgeEnd(seen)
        for text in expectedOutput.map(variables.replaced) where !text.isEmpty && !seen.output.contains(text) {
            problems.append("the output does not contain \"\(text)\"")
        }
        if !seen.timedOut {
            for file in outputFiles.map(variables.replaced) {
                do { if try !files.exists(file) { problems.append("\(file) was not made") } } catch {
                    problems.append(FunctionalTest.text(error))
                }
            }
            for check in checks ?? [] {
                do { problems += try check.problems(seen, files, variables) } catch { problems.append(FunctionalTest.text(error)) }
            }
        }
        return TestOutcome(
            name: name, passed: problems.isEmpty, problems: problems, seconds: seen.seconds,
            memoryBytes: seen.memoryBytes > 0 ? seen.memoryBytes : nil)
    }

    private static func text(_ error: any Error) -> String { (error as? FarmError)?.message ?? "\(error)" }

    private func judgeEnd(_ seen: TestObservation) -> [String] {
        if seen.outOfMemory { return ["held \(seen.memoryBytes >> 20) MiB of memory, which is more than a test may here"] }
        if seen.timedOut { return ["took longer than \(timeoutSeconds) s"] }
        if ignoresExitCode ?? false { return [] }
        if let rejected = rejectedExitCode {
            return seen.exitCode == rejected ? ["ended with status \(seen.exitCode), which it must not"] : []
        }
        return seen.exitCode == expectedExitCode ? [] : ["ended with status \(seen.exitCode), expected \(expectedExitCode)"]
    }
}

extension TestCheck {
    /// What a test's results have against the check; empty when it holds. Throws what cannot be read.
    func problems(_ seen: TestObservation, _ files: some TestFiles, _ variables: SuiteVariables) throws -> [String] {
        func read(_ path: String) throws -> (name: String, bytes: [UInt8]) {
            let name = variables.replaced(in: path)
            return (name, try files.read(name))
        }
        switch self {
        case .sameDimensions(let one, let other):
            let (first, second) = (try read(one), try read(other))
            let dimensions = try NiftiVolume(first.bytes, source: first.name).dimensions
            let others = try NiftiVolume(second.bytes, source: second.name).dimensions
            return dimensions == others
                ? [] : ["\(first.name) has the dimensions \(printed(dimensions)), \(second.name) has \(printed(others))"]
        case .sha256(let file, let hex):
            let (name, bytes) = try read(file)
            let found = Digest(hashing: bytes).hex
            return found == hex ? [] : ["\(name) has the SHA-256 \(found), expected \(hex)"]
        case .number(let check): return try check.problems(seen, files, variables)
        case .volume(let check):
            let (name, bytes) = try read(check.file)
            return check.problems(try NiftiVolume(bytes, source: name), name)
        case .picture(let file, let like, let within):
            let (first, second) = (try read(file), try read(like))
            let (one, two) = (try Picture(png: first.bytes, source: first.name), try Picture(png: second.bytes, source: second.name))
            guard let difference = one.difference(from: two) else {
                return ["\(first.name) is \(one.width) x \(one.height) pixels, \(second.name) is \(two.width) x \(two.height)"]
            }
            return difference <= within
                ? [] : ["\(first.name) differs from \(second.name) by \(shown(difference)), at most \(shown(within)) was expected"]
        case .output(let pattern):
            let expression = try TestCheck.expression(variables.replaced(in: pattern))
            return seen.output.contains(expression) ? [] : ["nothing in the output matches \(pattern)"]
        case .schema(let file, let schema):
            let (name, bytes) = try read(file)
            return try JSONSchema(schema).problems(of: bytes, source: name).map { "\(name): \($0)" }
        case .fileCount(let pattern, let least, let most):
            let count = try files.matching(variables.replaced(in: pattern)).count
            if (least...max(least, most)).contains(count) { return [] }
            let expected = least == most ? "\(least)" : most == Int.max ? "at least \(least)" : "\(least) to \(most)"
            return ["\(count) files match \(pattern), expected \(expected)"]
        case .memory(let most):
            guard seen.memoryBytes > Int64(most) << 20 else { return [] }
            return ["held \(seen.memoryBytes >> 20) MiB of memory, at most \(most) were expected"]
        case .seconds(let most): return seen.seconds <= most ? [] : ["took \(shown(seen.seconds)) s, at most \(shown(most)) were expected"]
        }
    }

    private func printed(_ dimensions: [Int]) -> String { dimensions.map(String.init).joined(separator: " x ") }

    /// A regular expression in which a dot and an anchor mean what they do in grep; throws `check.pattern`.
    package static func expression(_ pattern: String) throws -> Regex<AnyRegexOutput> {
        do { return try Regex(pattern).anchorsMatchLineEndings() } catch {
            throw FarmError("check.pattern", .invalid, "\(pattern) is no regular expression")
        }
    }
}

/// A number with as many digits as people read.
func shown(_ number: Double) -> String {
    if number == number.rounded(), abs(number) < 1e15 { return "\(Int64(number))" }
    let rounded = (number * 1e6).rounded() / 1e6
    return abs(number) >= 1e-4 && abs(number) < 1e9 ? "\(rounded)" : "\(number)"
}

extension NumberCheck {
    func problems(_ seen: TestObservation, _ files: some TestFiles, _ variables: SuiteVariables) throws -> [String] {
        let (found, name) = try find(seen, files, variables)
        guard let found else { return ["\(name) has no number at \(place.title)"] }
        if let expected, !(abs(found - expected) <= within) {
            let difference = abs(found - expected)
            return [
                "\(place.title) of \(name) is \(shown(found)), expected \(shown(expected)) within \(shown(within)): off by \(shown(difference))"
            ]
        }
        if let least, !(found >= least) { return ["\(place.title) of \(name) is \(shown(found)), expected at least \(shown(least))"] }
        if let most, !(found <= most) { return ["\(place.title) of \(name) is \(shown(found)), expected at most \(shown(most))"] }
        return []
    }

    private func find(_ seen: TestObservation, _ files: some TestFiles, _ variables: SuiteVariables) throws -> (Double?, String) {
        var (name, bytes) = ("the output", Array(seen.output.utf8))
        if let file {
            name = variables.replaced(in: file)
            bytes = try files.read(name)
        }
        switch place {
        case .json(let path): return (try JSONValue(bytes, source: name).at(path)?.number, name)
        case .pattern(let pattern):
            let match = try String(decoding: bytes, as: UTF8.self).firstMatch(of: TestCheck.expression(variables.replaced(in: pattern)))
            guard let output = match?.output, let text = (output.count > 1 ? output[1] : output[0]).substring else { return (nil, name) }
            return (Double(text.filter { !$0.isWhitespace }), name)
        case .table(let column, let row):
            let table = Table(String(decoding: bytes, as: UTF8.self))
            return (table.text(column: column, row: row).flatMap { Double($0) }, name)
        }
    }
}

extension NumberCheck.Place {
    var title: String {
        switch self {
        case .json(let path): path
        case .table(let column, let row): "column \(column), row \(row)"
        case .pattern(let pattern): pattern
        }
    }
}

/// Lines of fields that commas, tabs or blanks separate, whichever the head has, with quotes as RFC 4180 has them.
struct Table {
    private let rows: [[String]]

    init(_ text: String) {
        let lines = text.split(whereSeparator: \.isNewline).map(String.init).filter { !$0.allSatisfy(\.isWhitespace) }
        let head = lines.first ?? ""
        let separator: Character? = head.contains("\t") ? "\t" : head.contains(",") ? "," : head.contains(";") ? ";" : nil
        rows = lines.map { Table.fields($0, separator) }
    }

    private static func fields(_ line: String, _ separator: Character?) -> [String] {
        guard let separator else { return line.split(whereSeparator: \.isWhitespace).map(String.init) }
        var (fields, field, isQuoted): ([String], String, Bool) = ([], "", false)
        for character in line {
            if character == "\"" {
                isQuoted.toggle()
            } else if character == separator, !isQuoted {
                fields.append(field)
                field = ""
            } else {
                field.append(character)
            }
        }
        return (fields + [field]).map { String($0.drop(while: \.isWhitespace).reversed().drop(while: \.isWhitespace).reversed()) }
    }

    func text(column: String, row: Int) -> String? {
        guard let head = rows.first, let at = head.firstIndex(of: column) ?? UInt32(column).map({ Int($0) - 1 }) else { return nil }
        guard abs(Double(row)) < 1e9 else { return nil }
        let body = rows.dropFirst()
        let index = row < 0 ? body.endIndex + row : body.startIndex + row - 1
        guard row != 0, body.indices.contains(index), body[index].indices.contains(at) else { return nil }
        return body[index][at]
    }
}

extension VolumeCheck {
    func problems(_ volume: NiftiVolume, _ name: String) -> [String] {
        var found: [String] = []
        func compare<Value: Equatable>(_ what: String, _ expected: Value?, _ value: Value) {
            if let expected, expected != value { found.append("\(name) has \(what) \(value), expected \(expected)") }
        }
        func near(_ what: String, _ expected: Double?, _ value: Double) {
            guard let expected, !(abs(value - expected) <= within) else { return }
            found.append("\(name) has \(what) \(shown(value)), expected \(shown(expected)) within \(shown(within))")
        }
        compare("the dimensions", dimensions, volume.dimensions)
        compare("the data type", type, volume.type)
        compare("the orientation", orientation, volume.orientation ?? "unknown")
        if let voxelSize {
            let seen = Array(volume.voxelSize.prefix(voxelSize.count))
            if seen.count != voxelSize.count || zip(seen, voxelSize).contains(where: { abs($0 - $1) > max(within, 1e-6) }) {
                found.append(
                    "\(name) has voxels of \(seen.map(shown).joined(separator: " x ")), expected \(voxelSize.map(shown).joined(separator: " x "))"
                )
            }
        }
        guard isFinite != nil || mean != nil || least != nil || most != nil || checksum != nil else { return found }
        guard volume.isReal else { return found + ["\(name) has voxels of \(volume.type), which are no single numbers"] }
        let summary = volume.summary
        if isFinite ?? false, summary.strange > 0 { found.append("\(name) has \(summary.strange) voxels that are infinite or no number") }
        near("the mean", mean, summary.mean)
        near("the least value", least, summary.least)
        near("the greatest value", most, summary.most)
        if let checksum {
            let value = volume.checksum(step: step)
            if value != checksum {
                found.append("\(name) has voxels with the checksum \(value) in steps of \(shown(step)), expected \(checksum)")
            }
        }
        return found
    }
}
