import FarmModel

/// The part of an image that makes it a Singularity container: `/.singularity.d` and the mount points that runtimes
/// expect. Unlike Apptainer's own translation of a Docker configuration it keeps quotes and arguments intact.
enum SingularityDirectory {
    static let path = ".singularity.d"

    /// Adds everything to a merged tree.
    static func add(to tree: inout EntryTree, configuration: ImageConfiguration, papers: ImagePapers) throws {
        for (directory, mode) in [
            ("dev", 0o755), ("proc", 0o755), ("sys", 0o755), ("tmp", 0o1777), ("var/tmp", 0o1777), ("root", 0o700), ("home", 0o755),
            ("etc", 0o755), ("\(path)/libs", 0o755),
        ] where tree.follow(directory)?.isDirectory != true {
            try tree.addDirectory(directory, mode: UInt16(mode))
        }
        for file in ["etc/hosts", "etc/resolv.conf"] where tree.find(Array(file.utf8)) == nil && tree.follow(file) == nil {
            if tree.find(Array("etc".utf8))?.isDirectory == true { try tree.add(file, [], mode: 0o644) }
        }
        for script in scripts(configuration) {
            // What an image brings itself, as those made from definition files do, stays.
            if script.isOwners, tree.find(Array("\(path)/\(script.name)".utf8)) != nil { continue }
            try tree.add("\(path)/\(script.name)", Array(script.text.utf8), mode: 0o755)
        }
        try tree.add("\(path)/labels.json", try CanonicalJSON.encode(configuration.labels(papers.labels)), mode: 0o644)
        if let definition = papers.definition { try tree.add("\(path)/Singularity", Array(definition.utf8), mode: 0o644) }
        for file in papers.files { try tree.add("\(path)/sciferry/\(file.name)", file.bytes, mode: 0o644) }
        for (link, target) in [
            (".run", "actions/run"), ("singularity", "runscript"), (".exec", "actions/exec"), (".shell", "actions/shell"),
            (".test", "actions/test"), ("environment", "env/90-environment.sh"),
        ] where tree.find(Array(link.utf8)) == nil {
            try tree.addLink(link, to: "\(path)/\(target)")
        }
    }

    /// What `singularity inspect` shows, in the form that it keeps beside the file system (apptainer `pkg/inspect`, `Metadata`).
    static func inspection(
        of tree: EntryTree, _ contents: LayerContents, labels: [String: String], definition: String?
    ) throws -> [UInt8] {
        struct Inspection: Encodable {
            struct Attributes: Encodable {
                var environment: [String: String]
                var labels: [String: String]
                var deffile: String?
                var runscript: String?
                var startscript: String?
                var test: String?
            }
            struct Content: Encodable { var attributes: Attributes }
            var data: Content
            var type = "container"
        }
        func text(_ name: String) throws -> String? {
            guard let node = tree.find(Array("\(path)/\(name)".utf8)), node.content.size <= 1 << 20 else { return nil }
            return String(decoding: try contents.head(of: node.content, node.content.size), as: UTF8.self)
        }
        let names = (tree.find(Array("\(path)/env".utf8))?.sorted ?? []).map { String(decoding: $0.name, as: UTF8.self) }
        let environment = try names.compactMap { name in try text("env/\(name)").map { ("/\(path)/env/\(name)", $0) } }
        return try CanonicalJSON.encode(
            Inspection(
                data: .init(
                    attributes: .init(
                        environment: Dictionary(environment) { $1 }, labels: labels, deffile: definition, runscript: try text("runscript"),
                        startscript: try text("startscript"), test: try text("test")))))
    }

    private struct Script {
        var name: String
        var text: String
        /// Whether the image's own one counts.
        var isOwners = false
    }

    private static func scripts(_ configuration: ImageConfiguration) -> [Script] {
        // Runtimes of today do without the actions; those before Singularity 3.6 start programs by them.
        let environment = "#!/bin/sh\nfor script in /.singularity.d/env/*.sh; do [ -f \"$script\" ] && . \"$script\"; done\n"
        return [
            Script(name: "env/10-docker2singularity.sh", text: environmentScript(configuration.environment)),
            Script(name: "env/90-environment.sh", text: "#!/bin/sh\n# Variables that a site adds.\n", isOwners: true),
            Script(
                name: "env/99-base.sh",
                text: "#!/bin/sh\nexport LD_LIBRARY_PATH=\"${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}/.singularity.d/libs\"\n"),
            Script(name: "runscript", text: runScript(configuration), isOwners: true),
            Script(name: "startscript", text: "#!/bin/sh\n[ $# -eq 0 ] || exec \"$@\"\n", isOwners: true),
            Script(name: "test", text: testScript(configuration), isOwners: true),
            Script(name: "actions/exec", text: environment + "exec \"$@\"\n"),
            Script(name: "actions/run", text: environment + "exec /.singularity.d/runscript \"$@\"\n"),
            Script(name: "actions/start", text: environment + "exec /.singularity.d/startscript \"$@\"\n"),
            Script(name: "actions/test", text: environment + "exec /.singularity.d/test \"$@\"\n"),
            Script(
                name: "actions/shell",
                text: environment + "for shell in \"$SINGULARITY_SHELL\" /bin/bash /bin/sh; do\n"
                    + "    [ -n \"$shell\" ] && [ -x \"$shell\" ] && exec \"$shell\" \"$@\"\ndone\n"),
        ]
    }

    /// The image's variables stand unless the host set them; PATH always does.
    static func environmentScript(_ environment: [(name: String, value: String)]) -> String {
        var text = "#!/bin/sh\n"
        if !environment.contains(where: { $0.name == "PATH" }) {
            text += "export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n"
        }
        for (name, value) in environment {
            guard isVariable(name) else {
                // A shell cannot set it, and one that is told to stops.
                text += "# left out, for no shell has such a variable: \(ImageListing.escaped(Array(name.utf8)))\n"
                continue
            }
            let value = quoted(value)
            if name == "PATH" {
                text += "export PATH=\(value)\n"
            } else {
                text += "if [ -z \"${\(name)+set}\" ]; then export \(name)=\(value); fi\n"
            }
        }
        return text
    }

    /// A quote is written in quotes of the other kind: the shell inside Apptainer 1.4 keeps the backslash of the usual way.
    private static func quoted(_ text: String) -> String {
        let parts = text.unicodeScalars.split(separator: "'", omittingEmptySubsequences: false)
        return "'" + parts.map { String($0) }.joined(separator: "'\"'\"'") + "'"
    }

    private static func isVariable(_ name: String) -> Bool {
        guard let first = name.utf8.first, !(UInt8(ascii: "0")...UInt8(ascii: "9")).contains(first) else { return false }
        return name.utf8.allSatisfy { $0.isAlphanumeric || $0 == UInt8(ascii: "_") }
    }

    private static func runScript(_ configuration: ImageConfiguration) -> String {
        let entrypoint = configuration.entrypoint.map(ShellWord.quoted).joined(separator: " ")
        let command = configuration.command.map(ShellWord.quoted).joined(separator: " ")
        var text = "#!/bin/sh\n"
        if !configuration.user.isEmpty {
            text +=
                "# Docker would run this as \(ImageListing.escaped(Array(configuration.user.utf8))); here it runs as whoever starts it.\n"
        }
        if !configuration.directory.isEmpty, configuration.directory != "/" {
            // The caller's directory is theirs; only where there is none the image's counts.
            text += "if [ \"$PWD\" = / ]; then cd \(ShellWord.quoted(configuration.directory)) 2>/dev/null || :; fi\n"
        }
        if !command.isEmpty { text += "if [ $# -eq 0 ]; then set -- \(command); fi\n" }
        if !entrypoint.isEmpty { text += "set -- \(entrypoint) \"$@\"\n" }
        return text + "if [ $# -eq 0 ]; then set -- /bin/sh; fi\nexec \"$@\"\n"
    }

    private static func testScript(_ configuration: ImageConfiguration) -> String {
        let check = configuration.check
        switch check.first {
        case "CMD" where check.count > 1: return "#!/bin/sh\nexec \(check.dropFirst().map(ShellWord.quoted).joined(separator: " "))\n"
        case "CMD-SHELL" where check.count == 2: return "#!/bin/sh\nexec /bin/sh -c \(ShellWord.quoted(check[1]))\n"
        default: return "#!/bin/sh\necho 'this image brings no test of its own'\n"
        }
    }
}
