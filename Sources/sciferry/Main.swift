import ArgumentParser
import Commands

/// The command line of Sciferry.
@main
struct Main {
    static func main() async { await SciferryCommand.main() }
}
