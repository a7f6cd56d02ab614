import FarmModel

/// The part of an image that makes it a Singularity container: `/.singularity.d` and the mount points that runtimes
/// expect. Unlike Apptainer's own translation of a Docker configuration it keeps quotes and arguments intact.
enum SingularityDirectory {
    /// What a Docker image says of how it runs.
    struct Configuration: Sendable {
        var environment: [String]
        var entrypoint: [String]
        var command: [String]
        var labels: [String: String]
    }

    /// Adds everything to a merged tree.
    static func add(
        to tree: inout EntryTree, configuration: Configuration, labels: [String: String]
    ) throws {
        for directory in ["dev", "proc", "sys", "tmp", "var/tmp", "root", "home", "etc", ".singularity.d/libs"] {
            try tree.addDirectory(directory)
        }
        for file in ["etc/hosts", "etc/resolv.conf"] where tree.find(Array(file.utf8)) == nil {
            try tree.add(file, [], mode: 0o644)
        }
        /// - Parameter keeps: one that the image brings itself, as images made from definition files do, stays.
        func script(_ path: String, _ text: String, keeps: Bool = false) throws {
            if keeps, tree.find(Array(".singularity.d/\(path)".utf8)) != nil { return }
            try tree.add(".singularity.d/\(path)", Array(text.utf8), mode: 0o755)
        }
        try script("env/10-docker2singularity.sh", environmentScript(configuration.environment))
        try script("env/90-environment.sh", "#!/bin/sh\n# Variables that a site adds.\n", keeps: true)
        try script(
            "env/99-base.sh",
            "#!/bin/sh\n"
                + "export LD_LIBRARY_PATH=\"${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}/.singularity.d/libs\"\n")
        try script("runscript", runScript(configuration), keeps: true)
        try script("startscript", "#!/bin/sh\nexec \"$@\"\n", keeps: true)
        let all = configuration.labels.merging(labels) { $1 }
        try tree.add(".singularity.d/labels.json", try CanonicalJSON.encode(all), mode: 0o644)
        for (path, target) in [
            (".run", ".singularity.d/runscript"), ("singularity", ".singularity.d/runscript"),
            ("environment", ".singularity.d/env/90-environment.sh"),
        ] where tree.find(Array(path.utf8)) == nil {
            try tree.addLink(path, to: target)
        }
    }

    /// The image's variables stand unless the host set them; PATH always does.
    static func environmentScript(_ environment: [String]) -> String {
        var text = "#!/bin/sh\n"
        if !environment.contains(where: { $0.hasPrefix("PATH=") }) {
            text += "export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n"
        }
        for entry in environment {
            guard let equals = entry.firstIndex(of: "=") else { continue }
            let name = String(entry[..<equals])
            let value = ShellWord.quoted(String(entry[entry.index(after: equals)...]))
            guard name.utf8.allSatisfy({ $0.isAlphanumeric || $0 == UInt8(ascii: "_") }), !name.isEmpty else { continue }
            if name == "PATH" {
                text += "export PATH=\(value)\n"
            } else {
                text += "if [ -z \"${\(name)+set}\" ]; then export \(name)=\(value); fi\n"
            }
        }
        return text
    }

    private static func runScript(_ configuration: Configuration) -> String {
        let entrypoint = configuration.entrypoint.map(ShellWord.quoted).joined(separator: " ")
        let command = configuration.command.map(ShellWord.quoted).joined(separator: " ")
        var text = "#!/bin/sh\n"
        if !command.isEmpty { text += "if [ $# -eq 0 ]; then set -- \(command); fi\n" }
        if !entrypoint.isEmpty { text += "set -- \(entrypoint) \"$@\"\n" }
        return text + "if [ $# -eq 0 ]; then set -- /bin/sh; fi\nexec \"$@\"\n"
    }
}
