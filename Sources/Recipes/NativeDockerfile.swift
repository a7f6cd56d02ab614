import Microarchitecture
import FarmModel
import TemplateEngine

/// Writes an image definition as the farm builds it: inputs pinned, every line of a command must succeed.
///
/// Small edits keep the most layers: one layer for each directive; what only describes the image stands last; the CPU target
/// is set as late as it is needed, so that all targets share what comes before; declared files are shown to the step that
/// uses them and are in no layer; package archives are kept between builds, outside the image.
struct NativeDockerfile {
    private let draft: RecipeDraft
    /// What stands behind `FROM`.
    private let base: String
    private let standalone: Bool
    private var lines: [String] = []
    private var users: Set<String> = ["root"]
    private var user = "root"
    private var knowsTarget = false
    /// Where mounts were shown; their empty directories go at the end.
    private var mountPoints: Set<String> = []

    init(_ draft: RecipeDraft, base: String, standalone: Bool) {
        self.draft = draft
        self.base = base
        self.standalone = standalone
    }

    func render() throws -> String {
        var copy = self
        try copy.write()
        return copy.lines.joined(separator: "\n") + "\n"
    }

    private mutating func write() throws {
        try beginning()
        for instruction in draft.definition.instructions { try write(instruction) }
        if !mountPoints.isEmpty {
            if user != "root" { lines.append(NativeDockerfile.rootLine) }
            lines.append("RUN rm -rf \(mountPoints.sorted().joined(separator: " "))")
            if user != "root" { lines.append("USER \(user)") }
        }
        for path in draft.definition.deployPath { _ = try line(path, 1) }
        lines += NativeDockerfile.deployment(draft.definition)
        for (name, value) in draft.recipe.settings.labels {
            lines.append("LABEL \(NativeDockerfile.quoted(try line(name, 1)))=\(NativeDockerfile.quoted(try line(value, 1)))")
        }
        if standalone { return }
        lines.append("COPY [\(draft.descriptions.map { "\"\(BuildContextNames.about)/\($0.name)\"" }.joined(separator: ", ")), \"/\"]")
    }

    /// What tells a site which commands there are.
    static func deployment(_ definition: ImageDefinition) -> [String] {
        [("DEPLOY_BINS", definition.deployBins), ("DEPLOY_PATH", definition.deployPath)].filter { !$0.1.isEmpty }.map {
            "ENV \($0.0)=\(NativeDockerfile.quoted($0.1.joined(separator: ":")))"
        }
    }

    private mutating func beginning() throws {
        lines.append("FROM \(base)")
        lines.append(NativeDockerfile.rootLine)
        for (name, value) in draft.recipe.settings.arguments { lines.append("ARG \(name)=\(NativeDockerfile.quoted(try line(value, 1)))") }
        if draft.definition.packageManager == "apt" { lines.append("ENV DEBIAN_FRONTEND=noninteractive") }
        let build = draft.recipe.build
        if build.addsDefaults {
            lines.append("ENV LANG=en_US.UTF-8 LC_ALL=en_US.UTF-8")
            let isApt = draft.definition.packageManager == "apt"
            install(BuildDefaults.packages(isApt: isApt), then: BuildDefaults.commands(isApt: isApt))
        }
        if draft.definition.packageManager == "apt", build.addsTimeZone ?? build.addsDefaults {
            lines.append("ENV TZ=UTC")
            install(["tzdata"])
        }
    }

    /// The CPU target, for the steps that follow.
    private mutating func nameTarget() {
        guard !knowsTarget else { return }
        knowsTarget = true
        lines.append("ARG SCIFERRY_CPU_TARGET=\(draft.target.name)")
        lines.append("ARG SCIFERRY_MARCH=\(draft.target.march)")
        for (name, value) in draft.target.buildVariables { lines.append("ARG \(name)=\(NativeDockerfile.quoted(value))") }
    }

    private mutating func write(_ instruction: ImageDefinition.Instruction) throws {
        let number = instruction.line
        switch instruction.kind {
        case .from: break
        case .environment(let variables):
            for variable in variables {
                guard variable.name.utf8.allSatisfy({ $0.isAlphanumeric || $0 == UInt8(ascii: "_") }), !variable.name.isEmpty else {
                    throw fail("recipe.variable", number, "\"\(variable.name)\" is no variable's name")
                }
                lines.append("ENV \(variable.name)=\(NativeDockerfile.quoted(try line(variable.value, number), expanding: true))")
            }
        case .install(let entries):
            let packages = entries.flatMap { $0.split(whereSeparator: \.isWhitespace).map(String.init) }
            for package in packages
            where package.hasPrefix("-") || !package.utf8.allSatisfy({ $0 > 0x20 && !";&|<>$`\"'\\(){}".utf8.contains($0) }) {
                throw fail("recipe.package", number, "\"\(package)\" is no package name")
            }
            if !packages.isEmpty { install(packages) }
        case .run(let run):
            guard run.locals.isEmpty else {
                throw fail("recipe.local", number, "local contexts are for trying things out; a farm builds from declared files")
            }
            let commands = run.commands.map(DockerfileCommand.joined).filter { !$0.isEmpty }
            if !commands.isEmpty {
                nameTarget()
                lines.append("RUN \(mount(of: run))\(commands.joined(separator: " \\\n && "))")
            }
        case .copy(let sources, let destination):
            let words = try (sources.map { standalone ? $0 : "\(BuildContextNames.copy)/\($0)" } + [destination]).map {
                NativeDockerfile.quoted(try line($0, number), expanding: true)
            }
            lines.append("COPY [\(words.joined(separator: ", "))]")
        case .workdir(let path): lines.append("WORKDIR \(try line(path, number))")
        case .user(let name):
            user = try line(name, number)
            guard !user.isEmpty, user.utf8.allSatisfy({ $0.isAlphanumeric || "-_.:${}".utf8.contains($0) }) else {
                throw fail("recipe.user", number, "\"\(user)\" is no user's name")
            }
            // A number, and what a variable stands for, is somebody whom the image brings.
            if users.insert(user).inserted, PlainName.isValid(user), !user.utf8.allSatisfy(\.isDigit) {
                lines.append("RUN id \(user) >/dev/null 2>&1 || useradd --no-user-group --create-home --shell /bin/bash \(user)")
            }
            lines.append(user == "root" ? NativeDockerfile.rootLine : "USER \(user)")
        case .entrypoint(let words):
            lines.append(
                "ENTRYPOINT [\(try words.map { NativeDockerfile.quoted(try line($0, number), expanding: true) }.joined(separator: ", "))]")
        }
    }

    private mutating func mount(of run: ImageDefinition.Run) -> String {
        guard !run.mount.isEmpty else { return "" }
        mountPoints.insert(RecipeScope.mountRoot)
        let source = "\(BuildContextNames.files)/\(run.mount)"
        return "--mount=type=bind,source=\(source),target=\(RecipeScope.mountRoot)/\(run.mount) \\\n "
    }

    private func fail(_ code: FarmError.Code, _ line: Int, _ message: String) -> FarmError {
        FarmError(code, .invalid, "\(draft.source.path):\(line): \(message)")
    }

    /// A text for one line of the Dockerfile: another line would be an instruction that nobody sees in the recipe.
    private func line(_ text: String, _ number: Int) throws -> String {
        guard !text.unicodeScalars.contains(where: { $0.value < 0x20 || $0.value == 0x7F }) else {
            throw fail("recipe.control", number, "a line end or control character stands in \"\(text)\"")
        }
        return text
    }

    /// By number: some images have no list of users, and BuildKit finds no name there.
    private static let rootLine = "USER 0:0"

    /// Archives stay in a cache of the recipe's own: nothing that another recipe's packages do reaches it.
    private static let archives = "/var/cache/sciferry"

    private mutating func install(_ packages: [String], then commands: [String] = []) {
        let names = Set(packages).sorted().joined(separator: " \\\n      ")
        let more = commands.map { " \\\n && \($0)" }.joined()
        let isApt = draft.definition.packageManager == "apt"
        let cache = NativeDockerfile.archives
        mountPoints.insert(cache)
        lines.append(
            "RUN --mount=type=cache,id=\(isApt ? "apt" : "yum")-\(draft.recipe.name)-\(draft.target.family),sharing=locked,target=\(cache) \\"
        )
        if isApt {
            lines.append(
                """
                    mkdir -p \(cache)/partial \\
                 && apt-get update -qq \\
                 && apt-get install -y -q --no-install-recommends \\
                      -o Dir::Cache::Archives=\(cache) -o APT::Keep-Downloaded-Packages=true \\
                      \(names) \\
                 && rm -rf /var/lib/apt/lists/*\(more)
                """)
        } else {
            lines.append(
                """
                    yum install -y -q --setopt=cachedir=\(cache) --setopt=keepcache=1 \\
                      \(names)\(more)
                """)
        }
    }

    /// A double-quoted Dockerfile word; `expanding` leaves `$` to refer to variables set before.
    private static func quoted(_ text: String, expanding: Bool = false) -> String {
        var result = "\""
        for character in text {
            if character == "\"" || character == "\\" || (character == "$" && !expanding) { result.append("\\") }
            result.append(character)
        }
        return result + "\""
    }
}

/// One Dockerfile command from a block of lines.
enum DockerfileCommand {
    /// Each line must succeed, as in a script under `set -e`; comment lines go, since they would end the command.
    static func joined(_ text: String) -> String {
        let lines = text.split(separator: "\n").filter { line in
            let start = line.drop(while: \.isWhitespace)
            return !start.isEmpty && !start.hasPrefix("#")
        }
        return lines.enumerated().map { index, line in
            index == lines.count - 1 ? String(line) : line + joint(line, lines[index + 1])
        }.joined(separator: "\n")
    }

    /// What goes between two lines of a command, before the line end.
    private static func joint(_ line: Substring, _ next: Substring) -> String {
        if line.hasSuffix("\\") { return "" }
        let last = line.split(whereSeparator: \.isWhitespace).last.map(String.init) ?? ""
        let first = next.split(whereSeparator: \.isWhitespace).first.map(String.init) ?? ""
        // Whole words only: "sudo" opens nothing, "find" closes nothing.
        if ["then", "do", "else", "{", "(", "in"].contains(last) { return " \\" }
        if [";", "&&", "||", "|"].contains(where: { last.hasSuffix($0) }) { return " \\" }
        if ["&&", "||", "|"].contains(where: { first.hasPrefix($0) }) { return " \\" }
        let closer = first.prefix { !";)|&".contains($0) }
        let closers = ["fi", "done", "else", "elif", "esac", "}"]
        return closers.contains(String(closer)) || first.hasPrefix(")") || last == ";;" ? "; \\" : " && \\"
    }
}
