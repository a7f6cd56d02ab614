import FarmModel
import Foundation
import TemplateEngine
import TestSuites

/// Reads what stands under `validate`.
struct SuiteChecks {
    static let words: Set<String> = [
        "same_dimensions", "sha256", "number", "nifti", "image", "output_matches", "json_schema", "file_count", "memory", "seconds",
    ]
    static let advice = "known: \(words.union(["output_exists"]).sorted().joined(separator: ", "))"

    let document: RecipeDocument

    /// The checks of one entry. Throws errors that name file and line.
    func read(_ item: RecipeNode.Entry) throws -> [TestCheck] {
        let node = item.value
        switch item.key.printed {
        case "same_dimensions":
            let paths = node.sequence?.map(\.printed) ?? []
            guard paths.count == 2 else { throw fail(node, "same_dimensions needs two files") }
            return [.sameDimensions(try path(paths[0], node), try path(paths[1], node))]
        case "output_matches":
            return try (node.sequence?.map(\.printed) ?? [node.printed]).map { pattern in
                do { _ = try TestCheck.expression(pattern) } catch { throw fail(node, "\(pattern) is no regular expression") }
                return .output(pattern: pattern)
            }
        case "sha256":
            let block = try mapping(node, "sha256", ["file", "is"])
            let hex = try block.requireText("is").lowercased()
            guard hex.wholeMatch(of: /[0-9a-f]{64}/) != nil else { throw fail(node, "\"\(hex)\" is no SHA-256") }
            return [.sha256(file: try file(block), hex: hex)]
        case "number": return [.number(try number(node))]
        case "nifti": return [.volume(try volume(node))]
        case "image":
            let block = try mapping(node, "image", ["file", "like", "within"])
            return [
                .picture(
                    file: try file(block), like: try path(try block.requireText("like"), node), within: try decimal("within", block) ?? 0)
            ]
        case "json_schema":
            let block = try mapping(node, "json_schema", ["file", "schema"])
            let text = try SuiteChecks.json(try block.require("schema").value, in: self, node)
            do { _ = try JSONSchema(text) } catch let error as FarmError { throw fail(node, error.message) }
            return [.schema(file: try file(block), schema: text)]
        case "file_count":
            let block = try mapping(node, "file_count", ["files", "is", "at_least", "at_most"])
            let exact = try block.integer("is")
            guard exact != nil || block["at_least"] != nil || block["at_most"] != nil else {
                throw fail(node, "file_count needs is, at_least or at_most")
            }
            return [
                .fileCount(
                    pattern: try path(try block.requireText("files"), node), least: try exact ?? block.integer("at_least") ?? 0,
                    most: try exact ?? block.integer("at_most") ?? Int.max)
            ]
        case "memory":
            let block = try mapping(node, "memory", ["at_most_mib"])
            guard let most = try block.integer("at_most_mib"), most > 0 else { throw fail(node, "memory needs at_most_mib") }
            return [.memory(mostMiB: most)]
        default:
            let block = try mapping(node, "seconds", ["at_most"])
            guard let most = try decimal("at_most", block), most > 0 else { throw fail(node, "seconds needs at_most") }
            return [.seconds(most: most)]
        }
    }

    private func fail(_ node: RecipeNode, _ message: String) -> FarmError { document.fail("suite.check", node, message) }

    private func mapping(_ node: RecipeNode, _ what: String, _ keys: Set<String>) throws -> RecipeMapping {
        try RecipeMapping(node, in: document, what: what, keys: keys)
    }

    private func path(_ text: String, _ node: RecipeNode) throws -> String {
        guard !text.isEmpty, !text.split(separator: "/").contains("..") else {
            throw document.fail("suite.path", node, "\"\(text)\" must lie in the tests' working directory")
        }
        return text
    }

    private func file(_ block: RecipeMapping) throws -> String { try path(try block.requireText("file"), block.node) }

    private func decimal(_ key: String, _ block: RecipeMapping) throws -> Double? {
        guard let node = block[key], !node.isNull else { return nil }
        guard let value = decimal(node), value.isFinite else { throw fail(node, "\"\(key)\" must be a number") }
        return value
    }

    private func decimal(_ node: RecipeNode) -> Double? {
        switch node.content {
        case .scalar(.integer(let number), _): Double(number)
        case .scalar(.decimal(let number), _): number
        // YAML 1.1 takes 1e-3 for a text.
        case .scalar(.text(let text), _): Double(text)
        default: nil
        }
    }

    private func number(_ node: RecipeNode) throws -> NumberCheck {
        let block = try mapping(node, "number", ["file", "at", "column", "row", "pattern", "is", "within", "at_least", "at_most"])
        let place: NumberCheck.Place
        switch (try block.text("at"), try block.text("column"), try block.text("pattern")) {
        case (let path?, nil, nil): place = .json(path)
        case (nil, let column?, nil): place = .table(column: column, row: try block.integer("row") ?? 1)
        case (nil, nil, let pattern?):
            do { _ = try TestCheck.expression(pattern) } catch { throw fail(node, "\(pattern) is no regular expression") }
            place = .pattern(pattern)
        default: throw fail(node, "number needs one of at (in JSON), column (of a table) and pattern")
        }
        let check = NumberCheck(
            file: block["file"] == nil ? nil : try file(block), place: place, expected: try decimal("is", block),
            within: try decimal("within", block) ?? 0, least: try decimal("at_least", block), most: try decimal("at_most", block))
        guard check.expected != nil || check.least != nil || check.most != nil else {
            throw fail(node, "number needs is, at_least or at_most")
        }
        guard check.within >= 0 else { throw fail(node, "within is negative") }
        return check
    }

    private func volume(_ node: RecipeNode) throws -> VolumeCheck {
        let block = try mapping(
            node, "nifti",
            [
                "file", "dimensions", "type", "orientation", "voxel_size", "finite", "mean", "minimum", "maximum", "within", "checksum",
                "step",
            ])
        var check = VolumeCheck(file: try file(block), within: try decimal("within", block) ?? 0, step: try decimal("step", block) ?? 1)
        guard check.step > 0, check.within >= 0 else { throw fail(node, "step and within must not be negative, nor step 0") }
        check.dimensions = try list("dimensions", block)?.map { Int($0) }
        check.voxelSize = try list("voxel_size", block)
        check.type = try block.text("type")
        if let type = check.type, !NiftiVolume.typeNames.contains(type) {
            throw fail(node, "there is no data type \"\(type)\"; there are \(NiftiVolume.typeNames.joined(separator: ", "))")
        }
        check.orientation = try block.text("orientation")?.uppercased()
        if let axes = check.orientation, axes.wholeMatch(of: /[RLAPSI]{3}/) == nil {
            throw fail(node, "\"\(axes)\" is no orientation like RAS")
        }
        check.isFinite = try block.flag("finite")
        check.mean = try decimal("mean", block)
        check.least = try decimal("minimum", block)
        check.most = try decimal("maximum", block)
        check.checksum = try block.text("checksum")?.lowercased()
        if let hex = check.checksum, hex.wholeMatch(of: /[0-9a-f]{64}/) == nil { throw fail(node, "\"\(hex)\" is no SHA-256") }
        return check
    }

    private func list(_ key: String, _ block: RecipeMapping) throws -> [Double]? {
        guard let node = block[key], !node.isNull else { return nil }
        guard let numbers = node.sequence?.map(decimal), numbers.allSatisfy({ $0.map { abs($0) < 1e15 } ?? false }) else {
            throw fail(node, "\"\(key)\" must be a list of numbers")
        }
        return numbers.compactMap { $0 }
    }

    /// A YAML value as JSON text.
    private static func json(_ value: TemplateValue, in checks: SuiteChecks, _ node: RecipeNode) throws -> String {
        func any(_ value: TemplateValue) throws -> Any {
            switch value {
            case .none: return NSNull()
            case .bool(let flag): return flag
            case .integer(let number): return number
            case .decimal(let number) where number.isFinite: return number
            case .text(let text): return text
            case .list(let items): return try items.map(any)
            case .mapping(let mapping):
                return Dictionary(try mapping.entries.map { ($0.key.printed, try any($0.value)) }) { first, _ in first }
            default: throw checks.fail(node, "the schema holds something that JSON has not")
            }
        }
        let data = try JSONSerialization.data(withJSONObject: try any(value), options: [.sortedKeys, .fragmentsAllowed])
        return String(decoding: data, as: UTF8.self)
    }
}
