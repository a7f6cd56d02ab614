import ProcessRunner
import Testing

@testable import Recipes

/// How a step's commands become one command that fails when any of them does.
@Suite struct ShellStatementsTests {
    private func statements(_ text: String) -> [String] { ShellStatements(text).statements.map(\.text) }

    @Test func statementsEndWhereAShellEndsThem() {
        #expect(statements("a b\n\n# remark\nc # note\nd#e") == ["a b", "c", "d#e"])
        #expect(statements("a \\\n  b\nc &&\n d ||\ne") == ["a \\\n  b", "c && \\\n d || \\\ne"])
        #expect(statements("echo 'x\ny' \"z\n;\"\nb") == ["echo 'x\ny' \"z\n;\"", "b"])
        #expect(statements("for f in a b\ndo\n if c; then\n d\n fi\ndone\ne") == ["for f in a b\ndo\n if c; then\n d\n fi\ndone", "e"])
        #expect(statements("case $x in\na) b ;;\n*) c\n;;\nesac\nd") == ["case $x in\na) b ;;\n*) c\n;;\nesac", "d"])
        #expect(statements("cat <<E >f\nif (\n'\nE\nb") == ["cat <<E >f\nif (\n'\nE", "b"])
        #expect(statements("cat <<-'EF' | g\nx\n\tEF\nb") == ["cat <<-'EF' | g\nx\n\tEF", "b"])
        #expect(statements("f() {\n a\n}\n(b\nc)\nx=$(d\ne)") == ["f() {\n a\n}", "(b\nc)", "x=$(d\ne)"])
        #expect(statements("echo $((1<<2)) >&2 2>/dev/null &>x\ny") == ["echo $((1<<2)) >&2 2>/dev/null &>x", "y"])
        #expect(statements("echo if for done { }\nb") == ["echo if for done { }", "b"])
        #expect(statements("A=1 B=2 if\necho 'open") == ["A=1 B=2 if\necho 'open"])
        #expect(ShellStatements("a; b").statements.first?.isList == true && ShellStatements("a | b >&2").statements.first?.isList == false)
    }

    /// What a shell does with the result: nothing runs after a failure, and what may fail may.
    @Test(arguments: [
        (["false", "rm /nonexistent/x || true", "echo go-on"], 1, ""),
        (["true", "rm /nonexistent/x 2>&1 | cat >/dev/null || true", "echo on"], 0, "on\n"),
        (["echo a # note", "echo b"], 0, "a\nb\n"), (["if true\nthen\n echo x\nfi", "echo y"], 0, "x\ny\n"),
        (["for f in a b\ndo\n echo $f\ndone"], 0, "a\nb\n"), (["cat <<E\nout\nE", "false", "echo never"], 1, "out\n"),
        (["false && echo never", "echo never"], 1, ""), (["printf 'two\nlines\n'", "false && true", "echo never"], 1, "two\nlines\n"),
        (["cd /tmp; false; true", "pwd"], 0, "/tmp\n"), (["x=1 &&", "echo $x"], 0, ""),
        (["case a in\na) echo A ;;\nesac", "[ -d / ]", "echo B"], 0, "A\nB\n"),
        (["for f in a b\ndo\n false\n echo never\ndone", "echo never"], 1, ""),
    ]) func everyStatementMustSucceed(_ commands: [String], _ status: Int32, _ output: String) async throws {
        let script = ShellScript(commands)
        for text in [script.commandLine, script.script].compactMap({ $0 }) where !commands.contains("x=1 &&") {
            let result = try await ProcessRunner.run(Command("/bin/sh", ["-c", text]))
            #expect(result.status == status && result.text == output, "\(text)\n\(result)")
        }
    }
}
