import CZydis
package import FarmModel
package import Microarchitecture

/// Reads all programs and libraries of an image and says whether they keep to the CPU target that the image claims.
///
/// An instruction beyond the target is no fault where a check of the CPU stands before it, as in glibc. That is not believed of
/// anybody: what `cpuid` answers is followed through registers, memory and calls to the branches that depend on it, and code
/// counts as checked when some answer of these branches keeps it from running.
package struct ImageProof {
    /// A file that may be a program or a library.
    package struct File {
        package var path: String
        package var read: () throws -> [UInt8]

        package init(path: String, read: @escaping () throws -> [UInt8]) {
            self.path = path
            self.read = read
        }
    }

    /// What is kept of every file.
    private struct Entry {
        var path: String
        var needed: [String]
        var imports: Set<String>
        var features: FeatureSet
        var demands: Int?
        /// Kept where something goes beyond the target or asks the CPU.
        var map: CodeMap?
        var proof: FileProof?
    }

    private let target: Microarchitecture
    private let allowed: FeatureSet
    private let check: () throws -> Void
    private static let exampleCount = 8

    /// - Parameter check: called now and then; a thrown error stops the work.
    package init(target: Microarchitecture, check: @escaping () throws -> Void = {}) {
        self.target = target
        self.check = check
        allowed = InstructionFeatures.allowed(target)
    }

    /// Whether machine code can be read here; throws `isa.decoder` otherwise.
    package static func requireDecoder() throws {
        guard sciferry_x86_available() != 0 else {
            throw FarmError(
                "isa.decoder", .unavailable, "the library libZydis.so.4.0, which reads machine code, is not installed",
                hint: "install Debian's package libzydis4.0")
        }
    }

    /// - Throws: `FarmError` with code `isa.decoder` when the decoder is not installed, and what reading a file throws.
    package func prove(_ files: [File]) throws -> InstructionReport {
        guard target.family == "x86_64" else {
            return InstructionReport(
                target: target.name, verdict: .unproven, files: [], skipped: [],
                notes: ["machine code of \(target.family) is not looked into"], codeBytes: 0)
        }
        var entries: [Entry] = []
        var skipped: [InstructionReport.Skipped] = []
        var codeBytes = 0
        // What should have been read and was not leaves the question open.
        var isWhole = true
        for file in files.sorted(by: { $0.path < $1.path }) {
            do {
                try check()
                guard let entry = try examine(file, &codeBytes) else { continue }
                entries.append(entry)
            } catch let error as FarmError where error.code.rawValue.hasPrefix("elf.") {
                skipped.append(.init(path: file.path, reason: error.message))
                if error.code == "elf.invalid" || error.code == "elf.size" { isWhole = false }
            }
        }
        try follow(&entries)
        let reports = try report(entries)
        return InstructionReport(
            target: target.name, verdict: max(reports.map(\.verdict).max() ?? .met, isWhole ? .met : .unproven), files: reports,
            skipped: skipped,
            notes: notes(reports), codeBytes: codeBytes)
    }

    private func examine(_ file: File, _ codeBytes: inout Int) throws -> Entry? {
        let bytes = try file.read()
        guard ElfFile.isElf(bytes.prefix(4)) else { return nil }
        let elf = try ElfFile(bytes)
        guard elf.machine == ElfFile.x86 else {
            throw FarmError("elf.machine", .invalid, "its code is for another machine (ELF machine \(elf.machine))")
        }
        let map = try CodeMap(elf)
        codeBytes += map.codeBytes
        var features = FeatureSet()
        for function in map.functions { features.formUnion(function.features) }
        let isBeyond = !features.subtracting(allowed(at: file.path)).isEmpty
        let isKept = isBeyond || map.functions.contains(where: \.asks)
        return Entry(
            path: file.path, needed: elf.needed,
            imports: Set(elf.dynamicSymbols.filter { !$0.isDefined && !$0.name.isEmpty }.map(\.name)), features: features,
            demands: elf.neededLevels == 0 ? nil : 64 - Int(UInt64(elf.neededLevels).leadingZeroBitCount), map: isKept ? map : nil)
    }

    /// Follows checks within files and from file to file.
    private func follow(_ entries: inout [Entry]) throws {
        var shared = SharedKnowledge()
        var news: Set<String> = []
        // What one file tells may be what another passes on; more than two steps were not seen in the field.
        for round in 0..<3 {
            var told = shared
            for index in entries.indices where round == 0 || !news.isDisjoint(with: entries[index].imports) {
                guard let map = entries[index].map else { continue }
                try check()
                let proof = FileProof(map, allowed: allowed(at: entries[index].path), shared: shared)
                told.formUnion(proof.shared)
                entries[index].proof = proof
            }
            news = told.news(since: shared)
            shared = told
        }
    }

    // MARK: report

    /// The level of a directory of glibc's: the dynamic linker looks there only on CPUs that have it.
    private func level(of path: String) -> Int? {
        let parts = path.split(separator: "/")
        guard let index = parts.firstIndex(of: "glibc-hwcaps"), index + 1 < parts.count, parts[index + 1].hasPrefix("x86-64-v") else {
            return nil
        }
        return Int(parts[index + 1].dropFirst(8))
    }

    private func allowed(at path: String) -> FeatureSet {
        guard let level = level(of: path).flatMap(Microarchitecture.level) else { return allowed }
        var result = allowed
        result.formUnion(InstructionFeatures.allowed(level))
        return result
    }

    private func report(_ entries: [Entry]) throws -> [InstructionReport.File] {
        let beyond = entries.filter { !$0.features.subtracting(allowed(at: $0.path)).isEmpty }
        var uses = Uses()
        for entry in entries {
            guard !beyond.isEmpty else { break }
            uses.any.formUnion(entry.imports)
            if let proof = entry.proof, proof.hasChecks {
                uses.unchecked.formUnion(proof.importsWithoutCheck)
            } else {
                uses.unchecked.formUnion(entry.imports)
            }
        }
        let used = uses
        let needed = Set(entries.flatMap(\.needed))
        return try entries.map { entry in
            try check()
            var uses: [InstructionReport.Use] = []
            var unchecked = entry.features
            if let proof = entry.proof, !entry.features.subtracting(allowed(at: entry.path)).isEmpty {
                let found = reached(entry, proof, used)
                let isUnconditional = found.contains { $0.reach == .unconditional }
                uses = group(found, entry, proof, chooser: isUnconditional ? chooser(of: entry, needed, entries) : nil)
                unchecked = FeatureSet()
                let checked = Set(found.filter { $0.reach == .checked }.map(\.function))
                for (index, function) in proof.map.functions.enumerated() where !checked.contains(index) {
                    unchecked.formUnion(function.features)
                }
            }
            if let demands = entry.demands, demands > max(target.level ?? 4, level(of: entry.path) ?? 1) {
                uses.insert(
                    .init(
                        verdict: .exceeded, reason: "its note demands x86-64-v\(demands), so the dynamic linker refuses it on this target",
                        features: [], functions: 0, examples: []), at: 0)
            }
            return InstructionReport.File(
                path: entry.path, machine: "x86_64", highest: InstructionFeatures.level(entry.features),
                unchecked: InstructionFeatures.level(unchecked), demands: entry.demands.map { $0 == 1 ? "x86_64" : "x86_64_v\($0)" },
                verdict: uses.map(\.verdict).max() ?? .met, uses: uses)
        }
    }

    /// Symbols that files of the image want of others.
    private struct Uses {
        var any: Set<String> = []
        /// Without a check of the CPU before.
        var unchecked: Set<String> = []
    }

    /// Functions that interpreters look up by name: Python's and R's modules, Java's libraries.
    private static let conventions = ["PyInit_", "init_module", "R_init_", "JNI_OnLoad"]

    private func reached(_ entry: Entry, _ proof: FileProof, _ used: Uses) -> [FileProof.Found] {
        var roots = FileProof.Roots(sure: proof.starters)
        let held = proof.heldByData
        for (name, function) in proof.exports.sorted(by: { $0.key < $1.key }) {
            let isConvention = ImageProof.conventions.contains(where: name.hasPrefix)
            if used.unchecked.contains(name) || isConvention || !proof.hasChecks && !used.any.contains(name) {
                roots.sure.append(function)
            } else if used.any.contains(name) {
                roots.checked.append(function)
            } else if proof.isUnused(function, referenced: held), !proof.isPrivate(name) {
                roots.offered.append(function)
            }
        }
        // Nothing checks, so whatever data holds is used.
        if !proof.hasChecks { roots.sure += held.sorted() }
        return proof.reach(roots)
    }

    /// The file that names a library in its own data and checks the CPU, so that it may be what loads it.
    private func chooser(of entry: Entry, _ needed: Set<String>, _ entries: [Entry]) -> String? {
        let name = entry.path.split(separator: "/").last.map(String.init) ?? entry.path
        guard let end = name.range(".so") else { return nil }
        let base = "\(name[..<end]).so"
        guard !needed.contains(where: { $0.hasPrefix(base) }) else { return nil }
        return entries.first { other in
            other.path != entry.path && (other.proof?.hasChecks ?? false) && other.map?.file.mentions(base) ?? false
        }?.path
    }

    private func group(_ found: [FileProof.Found], _ entry: Entry, _ proof: FileProof, chooser: String?) -> [InstructionReport.Use] {
        let allowed = allowed(at: entry.path)
        let graded = Dictionary(grouping: found) { item -> FileProof.Reach in
            let beyond = proof.map.functions[item.function].features.subtracting(allowed)
            let isDeliberate = beyond.subtracting(InstructionFeatures.deliberate).isEmpty
            return item.reach == .unconditional && isDeliberate ? .deliberate : item.reach
        }
        return graded.sorted { $0.key > $1.key }.map { reach, functions in
            var features = FeatureSet()
            for item in functions { features.formUnion(proof.map.functions[item.function].features.subtracting(allowed)) }
            let (verdict, reason) = words(reach, chooser)
            return InstructionReport.Use(
                verdict: verdict, reason: reason, features: InstructionFeatures.names(features), functions: functions.count,
                examples: functions.prefix(ImageProof.exampleCount).map { item in
                    let place = proof.map.functions[item.function].places.first { !allowed.contains(Int($0.feature)) }
                    return .init(
                        function: proof.map.name(item.function), address: "0x\(String(place?.address ?? 0, radix: 16))",
                        feature: InstructionFeatures.name(Int(place?.feature ?? 0)), way: item.way.map(proof.map.name))
                })
        }
    }

    private func words(_ reach: FileProof.Reach, _ chooser: String?) -> (InstructionReport.Verdict, String) {
        switch reach {
        case .checked: (.met, "runs only behind a check of the CPU")
        case .unreferenced: (.unproven, "nothing in the file leads there")
        case .offered: (.unproven, "offered to others without a check; nothing in the image uses it")
        case .unrecognised:
            (.unproven, "no check was recognised on the way there, though the file has some and conditions stand on the way")
        case .handedOn: (.unproven, "its address is handed on without a check; who calls it was not seen")
        case .deliberate: (.unproven, "runs unless conditions of the program's own keep it from it; no compiler chooses these instructions")
        case .unconditional:
            if let chooser {
                (.unproven, "nothing checks the CPU before it in this file, but \(chooser), which checks the CPU, names it")
            } else {
                (.exceeded, "runs whatever the CPU is")
            }
        }
    }

    private func notes(_ files: [InstructionReport.File]) -> [String] {
        guard target.name != target.family, !files.isEmpty, files.allSatisfy({ $0.unchecked == target.family }) else { return [] }
        return ["built for \(target.name), but no code needs more than \(target.family) without a check of the CPU"]
    }
}

extension StringProtocol {
    /// Where a text first stands.
    fileprivate func range(_ text: String) -> Index? {
        var index = startIndex
        while index < endIndex {
            if self[index...].hasPrefix(text) { return index }
            formIndex(after: &index)
        }
        return nil
    }
}
