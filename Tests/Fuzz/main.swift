import FuzzTargets
import Glibc
import SystemIO

/// libFuzzer as a library (https://llvm.org/docs/LibFuzzer.html): runs `feed` until the arguments' limits are reached.
@_silgen_name("LLVMFuzzerRunDriver")
private func runFuzzer(
    _ count: UnsafeMutablePointer<CInt>, _ arguments: UnsafeMutablePointer<UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>>,
    _ feed: @convention(c) (UnsafePointer<UInt8>?, Int) -> CInt
) -> CInt

guard let name = getenv("SCIFERRY_FUZZ_TARGET"), let target = FuzzTarget(rawValue: String(cString: name)) else {
    fatalError("set SCIFERRY_FUZZ_TARGET to one of \(FuzzTarget.allCases.map(\.rawValue))")
}
// Asked for seeds, it only writes them.
if let directory = getenv("SCIFERRY_FUZZ_SEEDS") {
    for (number, seed) in try target.seeds().enumerated() {
        try Disk.replace("\(String(cString: directory))/seed-\(number)", with: seed)
    }
    exit(0)
}
var count = CommandLine.argc
var arguments = CommandLine.unsafeArgv
exit(runFuzzer(&count, &arguments, feedOneInput))

/// Under this name libFuzzer's archive wants it too, though its own main is not used.
@_cdecl("LLVMFuzzerTestOneInput")
func feedOneInput(_ bytes: UnsafePointer<UInt8>?, _ count: Int) -> CInt {
    FuzzTarget(rawValue: String(cString: getenv("SCIFERRY_FUZZ_TARGET")))?.feed(Array(UnsafeBufferPointer(start: bytes, count: count)))
    return 0
}
