/// One functional test of a finished image.
package struct FunctionalTest: Codable, Sendable, Hashable {
    package var name: String
    /// A bash script, run inside the image. It names the suite's variables; whoever runs it replaces them.
    package var command: String
    package var expectedExitCode: Int32
    /// Each text must occur in standard output or standard error.
    package var expectedOutput: [String]
    /// Files, relative to the working directory, that must exist afterwards.
    package var outputFiles: [String]
    package var timeoutSeconds: Int
    /// What it is for, for people. Absent in plans of older versions, as is what follows.
    package var description: String?
    /// A program's text that the command runs, where the suite gives one.
    package var script: TestScript?
    /// What stands before the command instead of the suite's own preparation.
    package var preparation: String?
    /// Tests that must have passed before.
    package var dependsOn: [String]?
    /// The exit status is not looked at.
    package var ignoresExitCode: Bool?
    /// Any exit status but this one is right.
    package var rejectedExitCode: Int32?
    package var checks: [TestCheck]?

    package init(
        name: String, command: String, expectedExitCode: Int32 = 0, expectedOutput: [String] = [],
        outputFiles: [String] = [], timeoutSeconds: Int = 120, description: String? = nil, script: TestScript? = nil,
        preparation: String? = nil, dependsOn: [String]? = nil, ignoresExitCode: Bool? = nil, rejectedExitCode: Int32? = nil,
        checks: [TestCheck]? = nil
    ) {
        self.name = name
        self.command = command
        self.expectedExitCode = expectedExitCode
        self.expectedOutput = expectedOutput
        self.outputFiles = outputFiles
        self.timeoutSeconds = timeoutSeconds
        self.description = description
        self.script = script
        self.preparation = preparation
        self.dependsOn = dependsOn
        self.ignoresExitCode = ignoresExitCode
        self.rejectedExitCode = rejectedExitCode
        self.checks = checks
    }
}

/// A program's text that a test runs from a file.
package struct TestScript: Codable, Sendable, Hashable {
    package var text: String
    /// Of the file's name, with its dot.
    package var suffix: String
    /// The command that is given the file; empty for the file itself.
    package var runner: String

    package init(text: String, suffix: String, runner: String) {
        self.text = text
        self.suffix = suffix
        self.runner = runner
    }
}

/// Something else that must be true after a test; paths are relative to the working directory.
package enum TestCheck: Codable, Sendable, Hashable {
    /// Two NIfTI files with equal dimensions.
    case sameDimensions(String, String)
    case sha256(file: String, hex: String)
    case number(NumberCheck)
    case volume(VolumeCheck)
    /// Two PNG files of equal size; `within` is the most by which the root of their mean squared difference may be above 0, where 1 is the
    /// whole range of a channel.
    case picture(file: String, like: String, within: Double)
    /// A regular expression that occurs in standard output or standard error.
    case output(pattern: String)
    /// A JSON document against a schema, which is JSON text itself.
    case schema(file: String, schema: String)
    case fileCount(pattern: String, least: Int, most: Int)
    /// The most memory that all processes of the test held together, in MiB.
    case memory(mostMiB: Int)
    /// Wall time.
    case seconds(most: Double)
}

/// A number and how near it must be to what is expected.
package struct NumberCheck: Codable, Sendable, Hashable {
    /// `nil` for standard output and standard error.
    package var file: String?
    package var place: Place
    package var expected: Double?
    /// The most by which it may differ from what is expected.
    package var within: Double
    package var least: Double?
    package var most: Double?

    /// Where the number stands.
    package enum Place: Codable, Sendable, Hashable {
        /// In a JSON document: keys and indexes, separated by dots.
        case json(String)
        /// In a table with a head: the column's name, and the row below the head, from 1. Negative rows count from the end.
        case table(column: String, row: Int)
        /// What the first group of a regular expression finds first.
        case pattern(String)
    }

    package init(
        file: String?, place: Place, expected: Double? = nil, within: Double = 0, least: Double? = nil, most: Double? = nil
    ) {
        self.file = file
        self.place = place
        self.expected = expected
        self.within = within
        self.least = least
        self.most = most
    }
}

/// Facts of a NIfTI file; those that are `nil` are not looked at.
package struct VolumeCheck: Codable, Sendable, Hashable {
    package var file: String
    package var dimensions: [Int]?
    /// As the format's own list of data types has it, for example `int16`, `float32`.
    package var type: String?
    /// To which directions the axes point, for example `RAS`.
    package var orientation: String?
    package var voxelSize: [Double]?
    /// No voxel is infinite or not a number.
    package var isFinite: Bool?
    package var mean: Double?
    package var least: Double?
    package var most: Double?
    /// The most by which sizes, mean, least and most may differ.
    package var within: Double
    /// SHA-256 over the values of all voxels, each rounded to a multiple of `step`, as 64-bit whole numbers in little-endian order.
    package var checksum: String?
    package var step: Double

    package init(file: String, within: Double = 0, step: Double = 1) {
        self.file = file
        self.within = within
        self.step = step
    }
}

/// The functional tests of a recipe and what runs before and after them.
package struct TestSuite: Codable, Sendable, Hashable {
    /// A bash script run inside the image before the first test, in the tests' working directory; may be empty.
    package var setup: String
    package var tests: [FunctionalTest]
    /// Why the recipe's tests are not run; empty when they are.
    package var skipped: String
    /// Names for which `${name}` and `$name` stand in scripts, commands and expectations. Absent in plans of older versions, as is what follows.
    package var variables: [SuiteVariable]?
    /// What stands before every command: variables and settings.
    package var preparation: String?
    /// A script for the machine that runs the tests, before `setup`; it gets that machine's system programs and the working directory.
    package var hostSetup: String?
    package var cleanup: String?
    package var files: [SuiteFile]?
    /// Whether tests reach the network.
    package var network: Bool?
    /// Whether tests that do not depend on each other may run at the same time.
    package var isParallel: Bool?
    /// It says itself what it wants: nothing of the image may be written, and what is unknown in it is an error.
    package var isStrict: Bool?
    /// The most memory that a test may hold; `nil` for what the machine allows.
    package var memoryMiB: Int?
    /// Commands that the checks of every image do not start.
    package var unstarted: [String]?

    package init(setup: String = "", tests: [FunctionalTest] = [], skipped: String = "") {
        self.setup = setup
        self.tests = tests
        self.skipped = skipped
    }
}

/// A name that stands for a text in a suite.
package struct SuiteVariable: Codable, Sendable, Hashable {
    package enum Kind: String, Codable, Sendable {
        case text
        /// A path below the directory of the suite's datasets, or below the working directory where there are none.
        case data
        /// The directory for what tests write.
        case output
    }
    package var name: String
    package var value: String
    package var kind: Kind

    package init(name: String, value: String, kind: Kind) {
        self.name = name
        self.value = value
        self.kind = kind
    }
}

/// A file of a dataset that a suite wants.
package struct SuiteFile: Codable, Sendable, Hashable {
    package var dataset: String
    package var path: String
    /// Once the dataset is known: the file's bytes.
    package var digest: Digest?
    package var size: Int64?

    package init(dataset: String, path: String, digest: Digest? = nil, size: Int64? = nil) {
        self.dataset = dataset
        self.path = path
        self.digest = digest
        self.size = size
    }
}
