import CLinux
import FarmModel
import Foundation
import Synchronization

/// What people see: plain lines anywhere, one moving line on a terminal.
enum Console {
    static var isTerminal: Bool { sciferry_terminal_columns(1) > 0 }

    static func error(_ text: String) { FileHandle.standardError.write(Data("\(text)\n".utf8)) }

    static func print(_ text: String) { FileHandle.standardOutput.write(Data("\(text)\n".utf8)) }

    /// Text that ends its own lines.
    static func write(_ text: String) { FileHandle.standardOutput.write(Data(text.utf8)) }
    static func json(_ value: some Encodable) throws { print(try CanonicalJSON.pretty(value)) }

    /// Columns padded to their widest cell.
    static func table(_ header: [String], _ rows: [[String]]) {
        let all = [header] + rows.map { $0.map { $0.printable() } }
        let widths = header.indices.map { column in all.map { $0[column].count }.max() ?? 0 }
        for row in all {
            let cells = row.enumerated().map { column, cell in
                column == row.count - 1 ? cell : cell + String(repeating: " ", count: widths[column] - cell.count)
            }
            print(cells.joined(separator: "  "))
        }
    }

    /// `12.3 MB`, in powers of ten.
    static func bytes(_ count: Int64) -> String {
        var value = Double(count)
        var unit = 0
        let units = ["B", "kB", "MB", "GB", "TB"]
        while value >= 1000, unit < units.count - 1 {
            value /= 1000
            unit += 1
        }
        return unit == 0 ? "\(count) B" : "\(rounded(value)) \(units[unit])"
    }

    /// One decimal.
    static func rounded(_ value: Double) -> String {
        let tenths = Int((value * 10).rounded())
        return "\(tenths / 10).\(abs(tenths % 10))"
    }

    static func seconds(_ value: Double) -> String { "\(rounded(value)) s" }

    /// `, about 4 s`, where that is known.
    static func about(_ value: Double?) -> String { value.map { $0 < 1 ? ", less than 1 s" : ", about \(Int($0.rounded(.up))) s" } ?? "" }

    /// A date without its time zone letter, or a dash.
    static func date(_ time: Timestamp?) -> String {
        guard let time else { return "-" }
        return String(time.description.dropLast().map { $0 == "T" ? " " : $0 })
    }
}

/// A line that changes in place on a terminal; elsewhere each new text becomes a line.
final class ProgressLine: Sendable {
    private let state = Mutex<(text: String, shown: Bool)>(("", false))
    private let isTerminal = Console.isTerminal

    /// Shows a text with a bar for `share` (0 to 1, `nil` for none).
    func show(_ label: String, share: Double?) {
        if isTerminal {
            let columns = Int(sciferry_terminal_columns(1))
            var line = label
            if let share {
                let width = max(10, min(30, columns - 40))
                let full = Int((share * Double(width)).rounded())
                line =
                    "[\(String(repeating: "#", count: full))\(String(repeating: ".", count: width - full))] \(Int(share * 100)) % \(label)"
            }
            let cut = String(line.prefix(max(20, columns - 1)))
            state.withLock { state in
                if state.text != cut { FileHandle.standardOutput.write(Data("\r\u{1B}[K\(cut)".utf8)) }
                state = (cut, true)
            }
        } else {
            let isNew = state.withLock { state in
                defer { state = (label, false) }
                return state.text != label
            }
            if isNew, !label.isEmpty { Console.print(label) }
        }
    }

    /// Takes the moving line away, so that ordinary lines can follow.
    func clear() {
        state.withLock { state in
            if state.shown { FileHandle.standardOutput.write(Data("\r\u{1B}[K".utf8)) }
            state = ("", false)
        }
    }
}
