import FarmModel
import Foundation
import Synchronization
import TemplateEngine

/// The object that expressions of recipes know as `context` and `local`, and what they may call.
final class RecipeScope: TemplateObject {
    private struct State {
        var values: [String: TemplateValue] = [:]
        var guests: [String: String] = [:]
        /// What tells files of one name apart.
        var sources: [String: String] = [:]
        var mount: String?
        var mountNames: [String: [String: String]] = [:]
        var usedFiles = false
        var usedLocals: [String] = []
    }

    private let state = Mutex(State())
    private let fixed: [String: TemplateValue]
    private let locals: Set<String>

    /// - Parameters:
    ///   - facts: name, version, original_version, arch, variant, parallel_jobs, options and what else is fixed.
    ///   - locals: keys of local contexts that the caller gives.
    init(facts: [String: TemplateValue], locals: Set<String>) {
        fixed = facts
        self.locals = locals
    }

    /// Everything that an expression sees.
    var namespace: [String: TemplateValue] {
        var names: [String: TemplateValue] = ["context": .object(self), "local": .object(self)]
        for name in ["arch", "parallel_jobs", "cpu_target", "cpu_march"] { names[name] = fixed[name] }
        for name in ["get_file", "has_local", "get_local"] { names[name] = function(name) }
        return names.merging(state.withLock { $0.values }) { _, own in own }
    }

    func attribute(_ name: String) throws -> TemplateValue? {
        fixed[name] ?? function(name) ?? state.withLock { $0.values[name] }
    }

    private func function(_ name: String) -> TemplateValue? {
        switch name {
        case "get_file": TemplateFunction.ofText(name) { [unowned self] in .text(try file($0)) }
        case "has_local": TemplateFunction.ofText(name) { [unowned self] in .bool(locals.contains($0)) }
        case "get_local": TemplateFunction.ofText(name) { [unowned self] in .text(try local($0)) }
        default: nil
        }
    }

    var values: [String: TemplateValue] {
        get { state.withLock { $0.values } }
        set { state.withLock { $0.values = newValue } }
    }

    func declare(_ name: String, guest: String, source: String) {
        state.withLock {
            $0.guests[name] = guest
            $0.sources[name] = source
        }
    }

    func guest(of file: String) -> String? { state.withLock { $0.guests[file] } }

    /// Runs `body` as the rendering of one run directive; gives what it used.
    func mounted<Value>(_ id: String, _ body: () throws -> Value) rethrows -> (value: Value, usedFiles: Bool, locals: [String]) {
        let before = state.withLock { state in
            defer { (state.mount, state.usedFiles, state.usedLocals) = (id, false, []) }
            return state.mount
        }
        defer { state.withLock { $0.mount = before } }
        let value = try body()
        let (usedFiles, usedLocals) = state.withLock { ($0.usedFiles, $0.usedLocals) }
        return (value, usedFiles, usedLocals)
    }

    /// Which declared file each name in a mount shows.
    var mountNames: [String: [String: String]] { state.withLock { $0.mountNames } }

    private func local(_ key: String) throws -> String {
        guard locals.contains(key) else {
            throw TemplateFailure.absent("there is no local context \"\(key)\"", hint: "give it: --local \(key)=DIRECTORY")
        }
        state.withLock { $0.usedLocals.append(key) }
        return "/.neurocontainer-local/\(key)"
    }

    private func file(_ name: String) throws -> String {
        try state.withLock { state in
            guard var guest = state.guests[name] else {
                let near = NearestWord.find(name, among: state.guests.keys)
                throw TemplateFailure.absent(
                    "there is no file \"\(name)\"", hint: near.map { "did you mean \"\($0)\"?" } ?? "declare it under files")
            }
            state.usedFiles = true
            guard let mount = state.mount else { return "\(RecipeScope.mountRoot)/\(guest)" }
            // Two files of one name in one mount: the later one gets a name of its own.
            if let other = state.mountNames[mount]?[guest], state.sources[other] != state.sources[name] {
                let mark = Digest(hashing: state.sources[name] ?? name).hex.prefix(12)
                if let dot = guest.lastIndex(of: ".") {
                    guest = "\(guest[..<dot])_\(mark)\(guest[dot...])"
                } else {
                    guest = "\(guest)_\(mark)"
                }
            }
            state.mountNames[mount, default: [:]][guest] = name
            return "\(RecipeScope.mountRoot)/\(mount)/\(guest)"
        }
    }

    static let mountRoot = "/.neurocontainer-cache"

    /// The name that a file has in the build: the last part of its URL's path, else its own.
    static func guestName(_ name: String, url: String?) -> String {
        guard let url, let path = URLComponents(string: url)?.percentEncodedPath ?? fallbackPath(url) else { return name }
        let decoded = path.removingPercentEncoding ?? path
        let last = String(decoded[(decoded.lastIndex(of: "/").map { decoded.index(after: $0) } ?? decoded.startIndex)...])
        return ["", ".", ".."].contains(last) ? name : last
    }

    /// For URLs that are none by the book, as some with spaces or brackets.
    private static func fallbackPath(_ url: String) -> String? {
        guard let scheme = url.range(of: "://") else { return nil }
        let rest = url[scheme.upperBound...].prefix { $0 != "?" && $0 != "#" }
        return rest.firstIndex(of: "/").map { String(rest[$0...]) }
    }
}
