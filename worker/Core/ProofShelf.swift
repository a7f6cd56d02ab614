package import FarmModel
package import ISAProof
package import Microarchitecture
import Glibc
import SystemIO

/// What was found of images' machine code, kept: images with the same programs and libraries for the same target need not be looked into
/// again, whatever else is in them. All workers of a machine that run as root share one shelf.
package struct ProofShelf: Sendable {
    /// `nil` where nothing is kept.
    private let place: String?
    /// Stands for the program that looks: another version of it may find something else.
    private let program: String

    private static let most = 1000

    /// A shelf in a directory; without one it keeps nothing.
    ///
    /// - Parameter program: stands for the version of what looks; by default for the running program's file.
    package init(_ place: String?, program: String? = nil) {
        self.place = place
        self.program = program ?? ProofShelf.running
    }

    private static let running: String = {
        let path = Disk.realPath("/proc/self/exe") ?? ""
        return "\(path) \(Disk.size(path) ?? 0) \(Disk.modified(path)?.milliseconds ?? 0)"
    }()

    /// Gives the report on files, as it was kept or anew. Blocks. Throws what reading a file throws, and what `ImageProof` does.
    ///
    /// - Parameter check: called now and then; a thrown error stops the work.
    package func report(
        on files: [ImageProof.File], target: Microarchitecture, check: @escaping () throws -> Void
    ) throws -> InstructionReport {
        func anew() throws -> InstructionReport { try ImageProof(target: target, check: check).prove(files) }
        guard let place, let key = try key(files, target, check) else { return try anew() }
        let path = "\(place)/\(key.hex).json"
        if let bytes = try? Disk.read(path, limit: 64 << 20),
            let kept = try? CanonicalJSON.decode(InstructionReport.self, from: bytes, source: path)
        {
            // The newest are those of use.
            utimes(path, nil)
            return kept
        }
        let report = try anew()
        keep(report, path, place)
        return report
    }

    /// What decides a report; `nil` where a file cannot be read as a whole, which the report will tell of.
    private func key(_ files: [ImageProof.File], _ target: Microarchitecture, _ check: () throws -> Void) throws -> Digest? {
        var hasher = Digest.Hasher()
        func add(_ bytes: [UInt8]) { bytes.withUnsafeBytes { hasher.update($0) } }
        add(Array("\(program)\n\(target.name)\n".utf8))
        for file in files.sorted(by: { $0.path < $1.path }) {
            try check()
            let bytes: [UInt8]
            do { bytes = try file.read() } catch let error as FarmError where error.code.rawValue.hasPrefix("elf.") { return nil }
            add(Array("\(file.path.utf8.count) \(file.path) \(Digest(hashing: bytes).hex)\n".utf8))
        }
        return hasher.finish()
    }

    /// Nothing hangs on it but time.
    private func keep(_ report: InstructionReport, _ path: String, _ place: String) {
        guard let bytes = try? CanonicalJSON.encode(report) else { return }
        try? Disk.makeDirectory(place, mode: 0o700)
        try? Disk.replace(path, with: bytes, mode: 0o600)
        guard let names = try? Disk.list(place), names.count > ProofShelf.most else { return }
        let aged = names.map { ($0, Disk.modified("\(place)/\($0)") ?? Timestamp(seconds: 0)) }.sorted { $0.1 < $1.1 }
        for (name, _) in aged.prefix(names.count - ProofShelf.most * 3 / 4) { try? Disk.remove("\(place)/\(name)") }
    }
}
