import FarmModel
import TemplateEngine
import Testing

@Suite struct TemplateTests {
    private let scope: [String: TemplateValue] = [
        "version": .text("1.2.3"), "arch": .text("x86_64"), "flag": .bool(true), "number": .integer(4),
        "list": .list([.text("a"), .text("b"), .text("c")]), "context": .mapping(["name": .text("tool")]),
        "get_file": TemplateFunction.ofText("get_file") { .text("/files/\($0)") },
    ]

    // The right sides are what Python's jinja2 3.1 prints.
    @Test(arguments: [
        ("plain", "plain"), ("{{ version }}", "1.2.3"), ("v{{version}}!", "v1.2.3!"), ("{{ context.name }}", "tool"),
        ("{{ flag }}", "True"), ("{{ not flag }}", "False"), ("{{ list }}", "['a', 'b', 'c']"), ("{{ list[1] }}", "b"),
        ("{{ list[-1] }}", "c"), ("{{ list[1:] }}", "['b', 'c']"), ("{{ version.split('.')[0] }}", "1"),
        ("{{ version.split('.')[:2] | join('_') }}", "1_2"), ("{{ version | replace('.', '-') }}", "1-2-3"),
        ("{{ version | replace('.', '-', 1) }}", "1-2.3"), ("{{ arch == 'x86_64' }}", "True"),
        ("{{ arch != \"x86_64\" }}", "False"), ("{{ 'a' in list }}", "True"), ("{{ 'z' not in list }}", "True"),
        ("{{ missing | default('none') }}", "none"), ("{{ get_file('x') }}", "/files/x"), ("{{ number + 1 }}", "5"),
        ("{{ version ~ '-' ~ number }}", "1.2.3-4"), ("{{ '}}' }}", "}}"), ("{{ 3 >= number or flag }}", "True"),
        ("one line end goes\n", "one line end goes"), ("{{ 'A'.lower() }}", "a"), ("{{ version.endswith('3') }}", "True"),
    ]) func printsWhatJinjaPrints(_ template: String, _ expected: String) throws {
        #expect(try Template(template).render(scope) == expected)
    }

    @Test(arguments: [
        ("{{ nothing }}", "template.undefined", "line 1, column 4"), ("a\n{{ version. }}", "template.syntax", "line 2"),
        ("{{ version", "template.syntax", "line 1, column 1"), ("{% if x %}", "template.syntax", "statements"),
        ("{{ list['x'] }}", "template.undefined", "line 1"), ("{{ version | shout }}", "template.type", "shout"),
        ("{{ 'x }}", "template.syntax", "not closed"), ("{{ 1 + }}", "template.syntax", "value"), ("{{ ! }}", "template.syntax", "meaning"),
    ]) func saysWhatIsWrongAndWhere(_ template: String, _ code: String, _ part: String) {
        let error = #expect(throws: FarmError.self) { try Template(template).render(scope) }
        #expect(error?.code.rawValue == code)
        #expect(error?.message.contains(part) == true)
    }

    @Test func deepNestingIsRefusedNotFatal() {
        let deep = String(repeating: "(", count: 5000)
        #expect(throws: FarmError.self) { try Template("{{ \(deep) }}") }
    }

    @Test func randomTextNeverCrashes() {
        let alphabet = Array("{}%()[]'\"|.,~+-=!<> \nab1\\")
        for seed in 0..<2000 {
            var state = UInt64(seed) &* 0x9E37_79B9_7F4A_7C15 | 1
            let text = String(
                (0..<30).map { _ -> Character in
                    state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
                    return alphabet[Int(state >> 33) % alphabet.count]
                })
            for dialect in [Template.Dialect.recipe, .collection] {
                do { _ = try Template("{{" + text + "}}", dialect: dialect).render(scope) } catch {
                    #expect(error is FarmError, "seed \(seed)")
                }
            }
        }
    }
}
