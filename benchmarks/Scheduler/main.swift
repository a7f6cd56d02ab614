import CoordinatorCore
import FarmMessages
import FarmModel
import Foundation
import Microarchitecture

/// Drives the real scheduler with a virtual clock. Prints one JSON object per figure.
///
///     sciferry-bench-scheduler fill DIRECTORY HISTORY
///     sciferry-bench-scheduler dispatch DIRECTORY
///     sciferry-bench-scheduler makespan SEED
///     sciferry-bench-scheduler affinity SEED
let arguments = CommandLine.arguments
switch arguments.count > 1 ? arguments[1] : "" {
case "fill" where arguments.count == 4: try DispatchBenchmark(directory: arguments[2]).fill(Int(arguments[3]) ?? 0)
case "dispatch" where arguments.count == 3: try DispatchBenchmark(directory: arguments[2]).run()
case "makespan" where arguments.count == 3: NightSimulation(seed: UInt64(arguments[2]) ?? 1).run()
case "affinity" where arguments.count == 3: try AffinitySimulation(seed: UInt64(arguments[2]) ?? 1).run()
default:
    FileHandle.standardError.write(
        Data("usage: sciferry-bench-scheduler fill DIRECTORY HISTORY | dispatch DIRECTORY | makespan SEED | affinity SEED\n".utf8))
    exit(64)
}
