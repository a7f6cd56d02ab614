import Microarchitecture
import FarmModel

/// Writes an image definition as an Apptainer definition file
/// (https://apptainer.org/docs/user/latest/definition_files.html), from the same steps as the Dockerfile.
///
/// `%files` come all at once and before `%post`, so that they go to a directory of their own first; `%post` is one shell, so
/// that users and directories are switched inside it.
struct DefinitionFile {
    private let draft: RecipeDraft
    private let base: String
    private let standalone: Bool
    private var post: [String] = ["set -e"]
    private var environment: [String] = []
    private var user = "root"
    private var users: Set<String> = ["root"]
    private var entryPoint: [String] = []

    private static let staging = "/.sciferry-context"

    init(_ draft: RecipeDraft, base: String, standalone: Bool) {
        self.draft = draft
        self.base = base
        self.standalone = standalone
    }

    func render() throws -> String {
        var copy = self
        try copy.gather()
        // What a definition file would take for the beginning of a section.
        if let line = copy.post.first(where: { $0.hasPrefix("%") }) {
            throw FarmError(
                "render.definition", .invalid, "\(draft.source.path): \"\(line.prefix(60))\" cannot stand in a definition file",
                hint: "begin the line otherwise")
        }
        return copy.text()
    }

    private func text() -> String {
        let definition = draft.definition
        var lines = ["Bootstrap: docker", "From: \(base)", ""]
        var files: [String] = []
        if standalone {
            files = definition.copies.map { "\($0.path) \(DefinitionFile.staging)/\(BuildContextNames.copy)/\($0.path)" }
        } else {
            let directories = [
                definition.mounts.isEmpty ? nil : BuildContextNames.files, definition.copies.isEmpty ? nil : BuildContextNames.copy,
            ].compactMap { $0 }
            files = directories.map { "context/\($0) \(DefinitionFile.staging)/\($0)" }
            files += draft.descriptions.map { "context/\(BuildContextNames.about)/\($0.name) /\($0.name)" }
        }
        if !files.isEmpty { lines += ["%files"] + files.map { "    \($0)" } + [""] }
        lines += ["%environment"] + environment.map { "    \($0)" } + ["", "%post"] + post + [""]
        lines += [
            "%runscript",
            entryPoint.isEmpty ? "    exec \"$@\"" : "    exec \(entryPoint.map(ShellWord.quoted).joined(separator: " ")) \"$@\"", "",
        ]
        lines += [
            "%labels", "    org.sciferry.name \(draft.releaseName)", "    org.sciferry.version \(definition.version)",
            "    org.sciferry.target \(draft.target.name)",
        ]
        lines += draft.recipe.settings.labels.map { "    \($0.name) \($0.value)" }
        return lines.joined(separator: "\n") + "\n"
    }

    private mutating func gather() throws {
        export("SCIFERRY_CPU_TARGET", draft.target.name, keeps: false)
        export("SCIFERRY_MARCH", draft.target.march, keeps: false)
        for (name, value) in draft.target.buildVariables { export(name, value, keeps: false) }
        for (name, value) in draft.recipe.settings.arguments { export(name, value, keeps: false) }
        let definition = draft.definition
        let build = draft.recipe.build
        let isApt = definition.packageManager == "apt"
        if isApt { export("DEBIAN_FRONTEND", "noninteractive") }
        if build.addsDefaults {
            export("LANG", "en_US.UTF-8")
            export("LC_ALL", "en_US.UTF-8")
            install(BuildDefaults.packages(isApt: isApt))
            post += BuildDefaults.commands(isApt: isApt)
        }
        if isApt, build.addsTimeZone ?? build.addsDefaults {
            export("TZ", "UTC")
            install(["tzdata"])
        }
        for instruction in definition.instructions { try gather(instruction) }
        if !definition.deployBins.isEmpty { export("DEPLOY_BINS", definition.deployBins.joined(separator: ":")) }
        if !definition.deployPath.isEmpty { export("DEPLOY_PATH", definition.deployPath.joined(separator: ":")) }
        post.append("rm -rf \(DefinitionFile.staging) \(RecipeScope.mountRoot)")
    }

    private mutating func gather(_ instruction: ImageDefinition.Instruction) throws {
        switch instruction.kind {
        case .from: break
        case .environment(let variables): for variable in variables { export(variable.name, variable.value) }
        case .install(let packages): install(packages.flatMap { $0.split(whereSeparator: \.isWhitespace).map(String.init) })
        case .run(let run):
            guard run.locals.isEmpty else {
                throw FarmError(
                    "recipe.local", .invalid, "\(draft.source.path):\(instruction.line): local contexts have no place in a definition file")
            }
            if !run.mount.isEmpty {
                let place = "\(RecipeScope.mountRoot)/\(run.mount)"
                post.append("mkdir -p \(RecipeScope.mountRoot) && cp -a \(DefinitionFile.staging)/files/\(run.mount) \(place)")
            }
            let script = ShellScript(run.commands)
            if script.isEmpty { return }
            // A subshell, because every RUN begins where the last WORKDIR was.
            let text = script.commandLine ?? script.script
            post += block(user == "root" ? "( \(text)\n)" : "runuser -u \(user) -- /bin/sh -c \(ShellWord.quoted(text))")
        case .copy(let sources, let destination):
            let target = ShellWord.quoted(destination)
            post.append(destination.hasSuffix("/") || sources.count > 1 ? "mkdir -p \(target)" : "mkdir -p \"$(dirname \(target))\"")
            for source in sources {
                let path = ShellWord.quoted("\(DefinitionFile.staging)/copy/\(source)")
                // Of a directory Docker copies what is in it.
                post.append("if [ -d \(path) ]; then mkdir -p \(target) && cp -a \(path)/. \(target); else cp -a \(path) \(target); fi")
            }
        case .workdir(let path): post.append("mkdir -p \(ShellWord.quoted(path)) && cd \(ShellWord.quoted(path))")
        case .user(let name):
            if users.insert(name).inserted, PlainName.isValid(name) {
                post.append("id \(name) >/dev/null 2>&1 || useradd --no-user-group --create-home --shell /bin/bash \(name)")
            }
            user = name
        case .entrypoint(let words): entryPoint = words
        }
    }

    private mutating func export(_ name: String, _ value: String, keeps: Bool = true) {
        // Variables stand for their values, as in a Dockerfile; commands in the text do not run.
        let escaped = value.map { "\"\\`".contains($0) ? "\\\($0)" : String($0) }.joined().replacing("$(", with: "\\$(")
        post.append("export \(name)=\"\(escaped)\"")
        if keeps { environment.append("export \(name)=\"\(escaped)\"") }
    }

    private mutating func install(_ packages: [String]) {
        if packages.isEmpty { return }
        let names = Set(packages).sorted().joined(separator: " ")
        post +=
            draft.definition.packageManager == "apt"
            ? ["apt-get update -qq", "apt-get install -y -q --no-install-recommends \(names)", "rm -rf /var/lib/apt/lists/*"]
            : ["yum install -y -q \(names)", "yum clean all", "rm -rf /var/cache/yum/*"]
    }

    private func block(_ text: String) -> [String] { text.split(separator: "\n", omittingEmptySubsequences: false).map(String.init) }
}

/// What every image of a collection begins with, unless its recipe does without.
enum BuildDefaults {
    static func packages(isApt: Bool) -> [String] {
        isApt
            ? ["bzip2", "ca-certificates", "curl", "locales", "unzip"] : ["bzip2", "ca-certificates", "glibc-langpack-en", "unzip"]
    }

    static func commands(isApt: Bool) -> [String] {
        let locale = ["sed -i 's/^# *en_US.UTF-8 UTF-8/en_US.UTF-8 UTF-8/' /etc/locale.gen", "locale-gen"]
        return (isApt ? locale : []) + ["chmod 777 /opt"]
    }
}
