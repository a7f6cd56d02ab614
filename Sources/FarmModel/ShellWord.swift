/// Words of POSIX shell scripts that we generate.
package enum ShellWord {
    /// The text as one single-quoted word; nothing in it is expanded.
    package static func quoted(_ text: String) -> String {
        var result = "'"
        for character in text {
            if character == "'" { result += "'\\''" } else { result.append(character) }
        }
        return result + "'"
    }
}
