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
        lines += NativeDockerfile.deployment(draft.definition)
        lines += NativeDockerfile.labels(draft.recipe.settings)
        if standalone { return }
        lines.append("COPY [\(draft.descriptions.map { "\"\(BuildContextNames.about)/\($0.name)\"" }.joined(separator: ", ")), \"/\"]")
    }

    /// What tells a site which commands there are.
    static func deployment(_ definition: ImageDefinition) -> [String] {
        [("DEPLOY_BINS", definition.deployBins), ("DEPLOY_PATH", definition.deployPath)].filter { !$0.1.isEmpty }.map {
            "ENV \($0.0)=\(NativeDockerfile.quoted($0.1.joined(separator: ":")))"
        }
    }

    /// What the image says of itself.
    static func labels(_ settings: RecipeSettings) -> [String] { settings.labels.map { "LABEL \(quoted($0.name))=\(quoted($0.value))" } }

    private mutating func beginning() throws {
        lines.append("FROM \(base)")
        lines.append(NativeDockerfile.rootLine)
        for (name, value) in draft.recipe.settings.arguments { lines.append("ARG \(name)=\(NativeDockerfile.quoted(value))") }
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
                lines.append("ENV \(variable.name)=\(NativeDockerfile.quoted(variable.value, expanding: true))")
            }
        case .install(let entries):
            let packages = entries.flatMap { $0.split(whereSeparator: \.isWhitespace).map(String.init) }
            if !packages.isEmpty { install(packages) }
        case .run(let run):
            guard run.locals.isEmpty else {
                throw fail("recipe.local", number, "local contexts are for trying things out; a farm builds from declared files")
            }
            let script = ShellScript(run.commands)
            if !script.isEmpty {
                nameTarget()
                lines.append("RUN \(mount(of: run))\(try command(script, number))")
            }
        case .copy(let sources, let destination):
            let words = (sources.map { standalone ? $0 : "\(BuildContextNames.copy)/\($0)" } + [destination]).map {
                NativeDockerfile.quoted($0, expanding: true)
            }
            lines.append("COPY [\(words.joined(separator: ", "))]")
        case .workdir(let path): lines.append("WORKDIR \(path)")
        case .user(let name):
            user = name
            // A number, and what a variable stands for, is somebody whom the image brings.
            if users.insert(user).inserted, PlainName.isValid(user), !user.utf8.allSatisfy(\.isDigit) {
                lines.append("RUN id \(user) >/dev/null 2>&1 || useradd --no-user-group --create-home --shell /bin/bash \(user)")
            }
            lines.append(user == "root" ? NativeDockerfile.rootLine : "USER \(user)")
        case .entrypoint(let words):
            lines.append(
                "ENTRYPOINT [\(words.map { NativeDockerfile.quoted($0, expanding: true) }.joined(separator: ", "))]")
        }
    }

    /// Behind RUN: a command line, or a script where statements go on over lines.
    private func command(_ script: ShellScript, _ number: Int) throws -> String {
        // What begins with a bracket could be taken for such a list itself.
        guard let line = script.commandLine, !line.hasPrefix("[") else {
            return "[\"/bin/sh\", \"-c\", \(String(decoding: try CanonicalJSON.encode(script.script), as: UTF8.self))]"
        }
        guard !line.hasPrefix("--"), !line.hasSuffix("\\"), !line.unicodeScalars.contains("\r"), !line.contains("\0") else {
            throw fail("recipe.command", number, "\"\(line.prefix(60))\" is no command")
        }
        return line
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
