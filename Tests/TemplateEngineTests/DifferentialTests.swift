import FarmModel
import Foundation
import ProcessRunner
import Support
import TemplateEngine
import Testing

/// Generated templates, rendered here and by Python's jinja2.
@Suite struct DifferentialTests {
    private struct Case: Decodable {
        var text: String
        var statements: Bool
        var output: String?
        var error: String?
    }

    private static let values: [String: TemplateValue] = [
        "a": .text("text"), "b": .text(""), "v": .text("1.20.3"), "u": .text("Grün ß 'x' \"y\""), "n": .integer(7), "z": .integer(0),
        "m": .integer(-3), "f": .decimal(2.5), "t": .bool(true), "no": .none, "l": .list([.integer(3), .integer(1), .integer(2)]),
        "w": .list([.text("b"), .text("A"), .text("c"), .text("a")]), "e": .list([]), "p": .tuple([.text("x"), .integer(1)]),
        "d": .mapping(["k": .text("v"), "n": .integer(2), "l": .list([.integer(1), .list([.integer(2)])])]),
    ]

    @Test(arguments: 1...6) func agreesWithJinja(_ seed: Int) async throws {
        let python = ProcessInfo.processInfo.environment["SCIFERRY_TEST_PYTHON"] ?? "python3"
        let directory = "\(Repository.root)/Tests/TemplateEngineTests"
        let collected = OutputCollector()
        let result = try await ProcessRunner.run(
            Command(python, ["\(directory)/reference.py", String(seed), "2000"], deadlineSeconds: 120)
        ) { collected.add($0) }
        #expect(result.succeeded, "\(result.text.suffix(500))")
        let output = collected.bytes
        var differences: [String] = []
        var count = 0
        for line in output.split(separator: UInt8(ascii: "\n")) {
            let wanted = try JSONDecoder().decode(Case.self, from: Data(line))
            count += 1
            let dialect: Template.Dialect = wanted.statements ? .collection : .recipe
            do {
                let ours = try Template(wanted.text, dialect: dialect).render(Self.values)
                if wanted.output.map({ !$0.utf8.elementsEqual(ours.utf8) }) ?? true {
                    differences.append(
                        "\(wanted.text.debugDescription): \(ours.debugDescription), jinja2 \(wanted.output?.debugDescription ?? wanted.error ?? "")"
                    )
                }
            } catch let error as FarmError {
                if let output = wanted.output {
                    differences.append("\(wanted.text.debugDescription): \(error.message), jinja2 \(output.debugDescription)")
                }
            }
        }
        #expect(count > 1500)
        #expect(differences.isEmpty, "\(differences.count) of \(count) differ:\n\(differences.prefix(25).joined(separator: "\n"))")
    }
}
