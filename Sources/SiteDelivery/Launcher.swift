/// The one program that all wrappers lead to: a POSIX shell script, because site machines have old C libraries.
///
/// It is called as `sciferry-launch DIRECTORY COMMAND [ARGUMENT…]`, where the directory is a tool's or an image's, or through a wrapper, a
/// symbolic link named like a command in a tool's `bin`. It always becomes the command, or the runtime that runs it, so signals and exit
/// codes are the tool's own. What it needs to know stands beside the image, the tool and the site in files named `launch`
/// (docs/formats/launch.md).
package enum Launcher {
    /// The script; called with `--runtime` it prints the runtime that it would take, with `--version` its own version.
    package static let script = [choice, apptainer, mounts, engines, namespace].joined(separator: "\n\n") + "\n"
}
