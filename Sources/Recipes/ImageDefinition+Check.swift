import FarmModel

extension ImageDefinition {
    /// Refuses what would become something else in a Dockerfile or a definition file than the recipe says: names that are none, and
    /// line ends where one line is meant. Every way of writing an image begins with this.
    ///
    /// - Parameter fail: makes an error of a code, a line of `build.yaml` and a message.
    func check(_ settings: RecipeSettings, _ fail: (FarmError.Code, Int, String) -> FarmError) throws {
        func line(_ text: String, _ number: Int) throws {
            guard !text.unicodeScalars.contains(where: { $0.value < 0x20 || $0.value == 0x7F }) else {
                throw fail("recipe.control", number, "a line end or control character stands in \"\(text)\"")
            }
        }
        for path in deployPath { try line(path, 1) }
        for (name, value) in settings.labels { for text in [name, value] { try line(text, 1) } }
        for (_, value) in settings.arguments { try line(value, 1) }
        for instruction in instructions {
            let number = instruction.line
            switch instruction.kind {
            case .from, .run: break
            case .environment(let variables):
                for variable in variables {
                    guard VariableName.isValid(variable.name) else {
                        throw fail("recipe.variable", number, "\"\(variable.name)\" is no variable's name")
                    }
                    try line(variable.value, number)
                }
            case .install(let entries):
                for package in entries.flatMap({ $0.split(whereSeparator: \.isWhitespace) })
                where package.hasPrefix("-") || !package.utf8.allSatisfy({ $0 > 0x20 && !";&|<>$`\"'\\(){}".utf8.contains($0) }) {
                    throw fail("recipe.package", number, "\"\(package)\" is no package name")
                }
            case .copy(let sources, let destination): for path in sources + [destination] { try line(path, number) }
            case .workdir(let path): try line(path, number)
            case .user(let user):
                try line(user, number)
                guard !user.isEmpty, user.utf8.allSatisfy({ $0.isAlphanumeric || "-_.:${}".utf8.contains($0) }) else {
                    throw fail("recipe.user", number, "\"\(user)\" is no user's name")
                }
            case .entrypoint(let words): for word in words { try line(word, number) }
            }
        }
    }
}

/// Names of environment variables.
enum VariableName {
    static func isValid(_ name: String) -> Bool {
        guard let first = name.utf8.first, !(UInt8(ascii: "0")...UInt8(ascii: "9")).contains(first) else { return false }
        return name.utf8.allSatisfy { $0.isAlphanumeric || $0 == UInt8(ascii: "_") }
    }
}
