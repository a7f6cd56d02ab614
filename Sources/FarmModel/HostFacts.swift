/// What a worker says of itself when it connects.
package struct HostFacts: Codable, Sendable, Hashable {
    package var hostName: String
    package var architecture: String
    /// The best archspec name that the host can run.
    package var target: String
    package var processors: Int
    package var memoryBytes: Int64
    /// Bytes free where the worker keeps its files.
    package var diskFreeBytes: Int64
    package var engine: String
    package var kernel: String
    /// Build slots.
    package var slots: Int
    package var programVersion: String
    package var hardware: HardwareFacts?
    /// What it offers beside: words of its operator and of its engine and hardware, sorted. Absent in facts of older versions.
    package var labels: [String]?
    /// The engine's own name for itself; workers with the same one share its layers.
    package var engineID: String?

    package init(
        hostName: String, architecture: String, target: String, processors: Int, memoryBytes: Int64,
        diskFreeBytes: Int64, engine: String, kernel: String, slots: Int, programVersion: String,
        hardware: HardwareFacts? = nil, labels: [String] = []
    ) {
        self.labels = labels
        self.hostName = hostName
        self.architecture = architecture
        self.target = target
        self.processors = processors
        self.memoryBytes = memoryBytes
        self.diskFreeBytes = diskFreeBytes
        self.engine = engine
        self.kernel = kernel
        self.slots = slots
        self.programVersion = programVersion
        self.hardware = hardware
    }
}

/// What a machine is made of, as far as its kernel says it.
package struct HardwareFacts: Codable, Sendable, Hashable {
    /// `AuthenticAMD`, `ARM`, …; empty where it is not named.
    package var vendor: String
    package var model: String
    /// Features of the CPU as `/proc/cpuinfo` spells them, sorted.
    package var features: [String]
    /// CPU targets that the features promise and whose instructions do not run.
    package var refusedTargets: [String]
    package var numaNodes: Int
    package var gpus: [String]
    /// What the machine runs in, for example `kvm`; empty for none that shows.
    package var virtualization: String
    /// Other machines' programs that it runs too. Absent in facts of older versions.
    package var emulated: [EmulatedPlatform]?

    package init(
        vendor: String, model: String, features: [String], refusedTargets: [String], numaNodes: Int, gpus: [String],
        virtualization: String, emulated: [EmulatedPlatform] = []
    ) {
        self.vendor = vendor
        self.model = model
        self.features = features
        self.refusedTargets = refusedTargets
        self.numaNodes = numaNodes
        self.gpus = gpus
        self.virtualization = virtualization
        self.emulated = emulated
    }
}

/// Another machine's programs, run by an emulator.
package struct EmulatedPlatform: Codable, Sendable, Hashable {
    /// The machine, for example `aarch64`; of its CPU targets only the lowest, which has the same name, is emulated for certain.
    package var architecture: String
    /// The program and its version, for example `qemu-aarch64 7.2.22`.
    package var emulator: String
    /// How many times as long a loop of loads, additions and stores takes as on the host's own CPU, measured.
    package var cost: Double

    package init(architecture: String, emulator: String, cost: Double) {
        self.architecture = architecture
        self.emulator = emulator
        self.cost = cost
    }
}
