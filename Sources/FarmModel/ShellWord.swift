/// Words of POSIX shell scripts that we generate.
package enum ShellWord {
    /// The text as one single-quoted word; nothing in it is expanded.
    package static func quoted(_ text: String) -> String {
        var result = "'"
        // By scalars: a quote with a combining mark behind it is one character, and for a shell still a quote.
        for scalar in text.unicodeScalars {
            if scalar == "'" { result += "'\\''" } else { result.unicodeScalars.append(scalar) }
        }
        return result + "'"
    }
}
