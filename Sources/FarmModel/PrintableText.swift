extension StringProtocol {
    /// Without what could make a terminal or a reader show something else than is there: control characters and those that turn the
    /// direction of writing become U+FFFD.
    ///
    /// - Parameter keeping: control characters that stay.
    package func printable(keeping: String = "") -> String {
        var scalars = String.UnicodeScalarView()
        for scalar in unicodeScalars {
            let isControl = scalar.properties.generalCategory == .control || [0x2028, 0x2029, 0xFEFF].contains(scalar.value)
            let turns = 0x202A...0x202E ~= scalar.value || 0x2066...0x2069 ~= scalar.value
            scalars.append((isControl || turns) && !keeping.unicodeScalars.contains(scalar) ? "\u{FFFD}" : scalar)
        }
        return String(scalars)
    }
}
