import FarmModel
import Foundation
import ISAProof
import Microarchitecture
import ProcessRunner
import Support
import SystemIO
import Testing

/// Real programs, compiled here, against what is known of them.
@Suite(.serialized) struct ImageProofTests {
    /// `work` in a version that needs AVX-512 and one that does not, and what a test puts behind them.
    private static func source(_ rest: String) -> String {
        """
        #include <cpuid.h>
        #include <stdio.h>
        #include <stdlib.h>
        double a[1024], b[1024];
        #define LOOP { double s = 0; for (int i = 0; i < n; i++) s += x[i] * y[i] * 1.5 + 3; return s; }
        __attribute__((noinline, target("avx512f"), optimize("O3,fast-math"))) double fast(double *x, double *y, int n) LOOP
        __attribute__((noinline)) double plain(double *x, double *y, int n) LOOP
        \(rest)
        """
    }

    private static func compile(_ scratch: Scratch, _ name: String, _ source: String, _ options: [String] = []) async throws -> String {
        let path = "\(scratch.path)/\(name)"
        try Disk.replace("\(path).c", with: Array(source.utf8))
        let result = try await ProcessRunner.run(Command("gcc", ["-O2", "\(path).c", "-o", path] + options, deadlineSeconds: 300))
        try #require(result.succeeded, "\(result)")
        return path
    }

    private static func prove(_ paths: [String], for target: String) throws -> InstructionReport {
        let target = try #require(Microarchitecture.named(target))
        return try ImageProof(target: target).prove(paths.map { path in ImageProof.File(path: path) { try Disk.read(path) } })
    }

    private static func verdict(_ rest: String, _ options: [String] = [], for target: String = "x86_64_v2") async throws
        -> InstructionReport
    {
        let scratch = try Scratch()
        return try prove([try await compile(scratch, "program", source(rest), options)], for: target)
    }

    @Test(arguments: [[], ["-s"], ["-static"], ["-no-pie"]]) func aProgramForMoreThanItsTargetIsCaught(_ options: [String]) async throws {
        let report = try await ImageProofTests.verdict(
            "int main(int c, char **v) { for (int i = 0; i < 1024; i++) a[i] = i * c; printf(\"%f\", plain(a, b, c)); }",
            ["-O3", "-march=x86-64-v4", "-ffast-math"] + options)
        #expect(report.verdict == .exceeded)
        let use = try #require(report.files.first?.uses.first)
        #expect(use.verdict == .exceeded && use.features.contains("avx512f"))
        if options.isEmpty {
            #expect(use.examples.contains { $0.function == "main" } && use.examples.contains { $0.way == ["main", "plain"] })
        }
        // The function that nothing calls is no violation, and no proof.
        #expect(try await ImageProofTests.verdict("int main(void) { return plain(a, b, 3) > 1; }").verdict == .unproven)
    }

    /// Ways in which programs learn about the CPU and act on it.
    private static let dispatching: [String] = [
        // Asked in the very branch, and through a pointer.
        "int main(int c, char **v) { return (__builtin_cpu_supports(\"avx512f\") ? fast(a, b, c) : plain(a, b, c)) > 1; }",
        """
        static double (*work)(double *, double *, int);
        int main(int c, char **v) { work = __builtin_cpu_supports("avx512f") ? fast : plain; return work(a, b, c) > 1; }
        """,
        // Kept in memory by one function, read by another.
        """
        static int has;
        __attribute__((constructor)) static void look(void) {
            unsigned a, b = 0, c, d;
            if (__get_cpuid_count(7, 0, &a, &b, &c, &d)) has = b >> 16 & 1;
        }
        __attribute__((noinline)) static double work(int n) { if (has) return fast(a, b, n); return plain(a, b, n); }
        int main(int c, char **v) { return work(c) > 1; }
        """,
        // Written behind a branch, as constants.
        """
        static int level;
        __attribute__((constructor)) static void look(void) {
            unsigned a, b = 0, c, d;
            __cpuid_count(7, 0, a, b, c, d);
            if (b & 1 << 16) level = 3; else level = 1;
        }
        int main(int c, char **v) { switch (level) { case 3: return fast(a, b, c) > 1; default: return plain(a, b, c) > 1; } }
        """,
        // Filled in through a pointer, handed on as a parameter.
        """
        struct info { int sse, avx512; };
        __attribute__((noinline)) static void look(struct info *info) {
            unsigned a, b, c, d;
            __cpuid_count(7, 0, a, b, c, d);
            info->avx512 = b >> 16 & 1;
        }
        __attribute__((noinline)) static double work(int has, int n) { return has ? fast(a, b, n) : plain(a, b, n); }
        int main(int c, char **v) { struct info info; look(&info); return work(info.avx512, c) > 1; }
        """,
        // Chosen by the dynamic linker.
        """
        typedef double function(double *, double *, int);
        static function *resolve(void) { __builtin_cpu_init(); return __builtin_cpu_supports("avx512f") ? fast : plain; }
        double work(double *, double *, int) __attribute__((ifunc("resolve")));
        int main(int c, char **v) { return work(a, b, c) > 1; }
        """,
        // A table of functions, chosen as a whole.
        """
        struct table { double (*one)(double *, double *, int), (*two)(double *, double *, int); };
        static const struct table wide = {fast, fast}, narrow = {plain, plain};
        static const struct table *table;
        int main(int c, char **v) {
            if (__builtin_cpu_supports("avx512f")) table = &wide; else table = &narrow;
            return table->one(a, b, c) > table->two(b, a, c);
        }
        """,
    ]

    @Test(arguments: dispatching) func codeBehindACheckIsNoViolation(_ rest: String) async throws {
        for options in [[], ["-s"], ["-no-pie", "-s"], ["-O3"]] {
            let report = try await ImageProofTests.verdict(rest, options)
            #expect(report.verdict == .met, "\(options): \(InstructionSummary.lines(report).joined(separator: "\n"))")
            #expect(report.files.first?.highest.hasPrefix("x86_64_v4") == true && report.files.first?.unchecked == "x86_64")
        }
    }

    @Test func aConditionThatIsNoCheckProvesNothing() async throws {
        let byEnvironment = "int main(int c, char **v) { return (getenv(\"FAST\") ? fast(a, b, c) : plain(a, b, c)) > 1; }"
        #expect(try await ImageProofTests.verdict(byEnvironment).verdict == .exceeded)
        // A check that is not before it.
        let beside = """
            int main(int c, char **v) {
                if (__builtin_cpu_supports("avx512f")) puts("wide");
                return fast(a, b, c) > 1;
            }
            """
        #expect(try await ImageProofTests.verdict(beside).verdict == .exceeded)
        // The name of a check, without one.
        let named = """
            __attribute__((noinline)) int cpu_supports_avx512(void) { return 1; }
            int main(int c, char **v) { return (cpu_supports_avx512() ? fast(a, b, c) : plain(a, b, c)) > 1; }
            """
        #expect(try await ImageProofTests.verdict(named, ["-fno-ipa-cp", "-fno-ipa-pure-const"]).verdict == .exceeded)
        // Both answers lead there.
        let both = """
            __attribute__((noinline, target("avx512f"), optimize("O3,fast-math"))) double other(double *x, double *y, int n) LOOP
            int main(int c, char **v) { return (__builtin_cpu_supports("avx512f") ? fast(a, b, c) : other(a, b, c)) > 1; }
            """
        #expect(try await ImageProofTests.verdict(both).verdict == .exceeded)
    }

    /// Ways in which a pointer leaves a function unseen, in a program that checks the CPU elsewhere.
    @Test func whatIsHandedOnOverTheStackIsNotProven() async throws {
        let checks = "static void look(void) { if (__builtin_cpu_supports(\"avx512f\")) puts(\"wide\"); }\n"
        for rest in [
            """
            struct ops { double (*work)(double *, double *, int); };
            __attribute__((noinline)) double use(struct ops *ops, int n) { return ops->work(a, b, n); }
            int main(int c, char **v) { look(); struct ops ops = {fast}; return use(&ops, c) > 1; }
            """,
            """
            static double (*const table[])(double *, double *, int) = {plain, fast};
            int main(int c, char **v) { look(); return table[c & 1](a, b, c) > 1; }
            """,
        ] {
            let report = try await ImageProofTests.verdict(checks + rest)
            #expect(report.verdict != .met, "\(InstructionSummary.lines(report).joined(separator: "\n"))")
        }
    }

    /// A program that ends itself on CPUs without the feature keeps to its target.
    @Test(arguments: ["-O0", "-O2"]) func aCallThatDoesNotComeBackIsACheckToo(_ level: String) async throws {
        let report = try await ImageProofTests.verdict(
            "int main(int c, char **v) { if (!__builtin_cpu_supports(\"avx512f\")) exit(1); return fast(a, b, c) > 1; }", [level])
        #expect(report.verdict == .met, "\(InstructionSummary.lines(report).joined(separator: "\n"))")
    }

    @Test func whatIsNotSeenIsUnproven() async throws {
        // The environment chooses in a program that asks the CPU elsewhere.
        let report = try await ImageProofTests.verdict(
            """
            int main(int c, char **v) {
                if (__builtin_cpu_supports("avx512f")) puts("wide");
                return (getenv("FAST") ? fast(a, b, c) : plain(a, b, c)) > 1;
            }
            """)
        #expect(report.verdict == .unproven)
        #expect(report.files.first?.uses.first?.reason.contains("no check was recognised") == true)
    }

    @Test func librariesAreJudgedByWhoUsesThem() async throws {
        let scratch = try Scratch()
        let library = try await ImageProofTests.compile(
            scratch, "libwork.so", ImageProofTests.source("double work(int n) { return fast(a, b, n); }"),
            [
                "-shared", "-fPIC", "-fvisibility=hidden", "-Wl,--export-dynamic-symbol=work",
                "-Dwork=__attribute__((visibility(\"default\")))work",
            ])
        let declaration = "double work(int);\n"
        let careful = try await ImageProofTests.compile(
            scratch, "careful", declaration + "int main(int c, char **v) { return __builtin_cpu_supports(\"avx512f\") ? work(c) > 1 : 0; }",
            [library])
        let careless = try await ImageProofTests.compile(
            scratch, "careless", declaration + "int main(int c, char **v) { return work(c) > 1; }", [library])
        let good = try ImageProofTests.prove([library, careful], for: "x86_64_v3")
        #expect(good.verdict == .met, "\(InstructionSummary.lines(good).joined(separator: "\n"))")
        #expect(try ImageProofTests.prove([library, careful, careless], for: "x86_64_v3").verdict == .exceeded)
        // Alone it is an offer without a check.
        #expect(try ImageProofTests.prove([library], for: "x86_64_v3").verdict == .exceeded)
    }

    @Test func notesAndDirectoriesOfTheDynamicLinkerCount() async throws {
        let scratch = try Scratch()
        let demanding = try await ImageProofTests.compile(scratch, "demanding", "int main(void) { return 0; }", ["-Wl,-z,x86-64-v3"])
        let report = try ImageProofTests.prove([demanding], for: "x86_64_v2")
        #expect(report.verdict == .exceeded && report.files.first?.demands == "x86_64_v3")
        #expect(try ImageProofTests.prove([demanding], for: "haswell").verdict == .met)

        let wide = try await ImageProofTests.compile(
            scratch, "libwide.so", ImageProofTests.source(""), ["-shared", "-fPIC", "-march=x86-64-v3", "-O3"])
        let bytes = try Disk.read(wide)
        let target = try #require(Microarchitecture.named("x86_64"))
        func verdict(_ path: String) throws -> InstructionReport.Verdict {
            // The library holds AVX-512 too, which a directory for v4 allows and one for v3 does not.
            try ImageProof(target: target).prove([.init(path: path) { bytes }]).verdict
        }
        #expect(try verdict("/usr/lib/x86_64-linux-gnu/glibc-hwcaps/x86-64-v4/libwide.so") == .met)
        #expect(try verdict("/usr/lib/x86_64-linux-gnu/glibc-hwcaps/x86-64-v3/libwide.so") == .exceeded)
        #expect(try verdict("/usr/lib/x86_64-linux-gnu/libwide.so") == .exceeded)
    }

    @Test func anImageThatMakesNoUseOfItsTargetIsNoted() async throws {
        let scratch = try Scratch()
        let program = try await ImageProofTests.compile(scratch, "program", "int main(void) { return 0; }")
        let report = try ImageProofTests.prove([program], for: "zen3")
        #expect(report.verdict == .met && report.notes == ["built for zen3, but no code needs more than x86_64 without a check of the CPU"])
    }

    /// glibc and OpenBLAS as Debian ships them hold code for many CPUs, and no violation.
    @Test func whatDebianShipsIsNoViolation() throws {
        let directory = "/usr/lib/x86_64-linux-gnu"
        let paths = [
            "/lib64/ld-linux-x86-64.so.2", "\(directory)/libc.so.6", "\(directory)/libm.so.6", "\(directory)/libcrypto.so.3",
            "\(directory)/libzstd.so.1", "\(directory)/libgfortran.so.5", "\(directory)/openblas-pthread/libopenblas.so.0", "/bin/ls",
        ]
        let report = try ImageProofTests.prove(paths, for: "x86_64")
        #expect(report.verdict != .exceeded, "\(InstructionSummary.lines(report).joined(separator: "\n"))")
        let files = Dictionary(uniqueKeysWithValues: report.files.map { ($0.path, $0) })
        // The linker and the string functions are proven, by the way through cpuid, across two files.
        #expect((files["/lib64/ld-linux-x86-64.so.2"]?.uses.first { $0.verdict == .met }?.functions ?? 0) >= 3)
        let checked = files["\(directory)/libc.so.6"]?.uses.first { $0.verdict == .met }
        #expect((checked?.functions ?? 0) > 100 && checked?.features.contains("avx2") == true)
        #expect(files["\(directory)/libm.so.6"]?.uses.allSatisfy { $0.verdict != .exceeded } == true)
        #expect(files["\(directory)/openblas-pthread/libopenblas.so.0"]?.highest.hasPrefix("x86_64_v4") == true)
    }

    @Test func damagedFilesAreRefusedOrRead() async throws {
        let scratch = try Scratch()
        let path = try await ImageProofTests.compile(scratch, "program", ImageProofTests.source(ImageProofTests.dispatching[1]))
        let bytes = try Disk.read(path)
        let target = try #require(Microarchitecture.named("x86_64_v2"))
        var random = SeededGenerator(4)
        for round in 0..<300 {
            var damaged = round < 100 ? Array(bytes.prefix(bytes.count * round / 100)) : bytes
            if round >= 100 {
                for _ in 0..<8 { damaged[Int.random(in: 4..<(round < 200 ? 1024 : damaged.count), using: &random)] ^= .random(in: 1...255) }
            }
            let input = damaged
            let report = try ImageProof(target: target).prove([.init(path: "/damaged") { input }])
            #expect(report.files.count + report.skipped.count == (input.count < 4 ? 0 : 1))
        }
    }
}
