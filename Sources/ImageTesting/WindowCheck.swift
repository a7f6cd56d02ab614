package import FarmModel
import Glibc
import ProcessRunner
import SystemIO
package import TestSuites

/// What a program with windows has drawn.
package struct Screenshot: Sendable {
    package var program: String
    package var png: [UInt8]
}

extension BuiltInChecks {
    /// Fewer pixels are a pointer.
    private static let leastPixels = 400

    /// Starts each of the plan's programs with windows on a screen of its own, and looks at what it draws.
    ///
    /// - Parameter seconds: that a program gets until it has drawn something.
    /// - Returns: nothing where this machine has no Xvfb.
    package func windows(_ programs: [GraphicalProgram], seconds: Double = 60, _ watchers: SuiteRunner.Watchers) async throws -> (
        records: [TestRecord], screenshots: [Screenshot]
    ) {
        guard !programs.isEmpty, ProcessRunner.find("Xvfb") != nil else { return ([], []) }
        var (records, screenshots): ([TestRecord], [Screenshot]) = ([], [])
        for (index, program) in programs.enumerated() {
            await watchers.began(index, programs.count, "window of \(program.name)")
            let (record, picture) = try await window(program, index, seconds)
            records.append(record)
            await watchers.ended(record)
            if let picture { screenshots.append(Screenshot(program: program.name, png: picture.png)) }
        }
        return (records, screenshots)
    }

    private func window(_ program: GraphicalProgram, _ index: Int, _ seconds: Double) async throws -> (TestRecord, Picture?) {
        let screen = "\(image.place.root)/screen-\(index)"
        try await Blocking.run { [image] in
            try Disk.makeDirectory(screen, mode: 0o700)
            try image.place.give(screen)
        }
        let display = try await Display.start(in: screen, image)
        defer { display.stop() }
        let started = Timestamp.now
        let script = "export DISPLAY=:\(display.number) QT_X11_NO_MITSHM=1 LIBGL_ALWAYS_SOFTWARE=1\n\(program.command)\n"
        // Within one network: the screen's socket is found by its name there.
        let terms = ImageRunner.Terms(timeout: seconds + 5, network: true)
        let running = Task { [image] in try await image.run(script: script, name: "window-\(index)", terms) }
        defer { running.cancel() }
        let ended = Switch()
        let waiter = Task {
            defer { _ = ended.raise() }
            return try await running.value
        }
        var picture: Picture?
        let limit = seconds * image.patience
        while Timestamp.now.seconds(since: started) < limit {
            try await Task.sleep(for: .milliseconds(500))
            let seen = display.picture
            // Twice the same: it has come to rest.
            if let seen, seen.drawn >= BuiltInChecks.leastPixels, let picture, picture.pixels == seen.pixels { break }
            picture = seen ?? picture
            if ended.isRaised { break }
        }
        let drawn = picture?.drawn ?? 0
        let hasDrawn = drawn >= BuiltInChecks.leastPixels
        var (problems, tail): ([String], [String]) = ([], [])
        if !hasDrawn {
            running.cancel()
            let hasEnded = ended.isRaised
            let seen = try? await waiter.value
            problems.append(
                hasEnded ? "it ended with status \(seen?.exitCode ?? 0) and drew nothing" : "it drew nothing within \(Int(limit)) s")
            tail = SuiteRunner.tail(seen?.output ?? "")
        }
        let outcome = TestOutcome(
            name: "window of \(program.name)", passed: hasDrawn, problems: problems, seconds: Timestamp.now.seconds(since: started),
            wantsMore: true)
        return (TestRecord(outcome: outcome, command: program.command, tail: tail), hasDrawn ? picture : nil)
    }
}

/// A screen that nobody sees: Xvfb, whose content lies in a file.
private struct Display {
    let number: Int
    private let directory: String
    private let process: Task<Void, Never>

    static func start(in directory: String, _ image: ImageRunner) async throws -> Display {
        // Where the sockets of screens lie; only root can make it as it should be.
        let sockets = "/tmp/.X11-unix"
        if geteuid() == 0, !Disk.exists(sockets), mkdir(sockets, 0o1777) == 0 { chmod(sockets, 0o1777) }
        let told = "\(directory)/number"
        // The number goes to a file, because the server's own descriptors would have to be handed on.
        let script =
            "exec Xvfb -displayfd 3 -screen 0 1280x800x24 -fbdir \(ShellWord.quoted(directory)) -ac -br -nolisten tcp 3>\(ShellWord.quoted(told))"
        let words = image.place.words("/bin/sh", ["-c", script], processes: 256)
        let environment = image.environment
        let process = Task {
            _ = try? await ProcessRunner.run(
                Command(words[0], Array(words.dropFirst()), environment: environment, directory: "/tmp", deadlineSeconds: 3600))
        }
        for _ in 0..<100 {
            do { try await Task.sleep(for: .milliseconds(100)) } catch {
                process.cancel()
                throw error
            }
            if let text = try? Disk.read(told, limit: 64),
                let number = Int(String(decoding: text, as: UTF8.self).filter(\.isNumber))
            {
                return Display(number: number, directory: directory, process: process)
            }
        }
        process.cancel()
        throw FarmError("display.failed", .unavailable, "Xvfb does not start", hint: "/tmp/.X11-unix must be there with mode 1777")
    }

    private init(number: Int, directory: String, process: Task<Void, Never>) {
        (self.number, self.directory, self.process) = (number, directory, process)
    }

    var picture: Picture? { (try? Disk.read("\(directory)/Xvfb_screen0", limit: 64 << 20)).flatMap(Picture.init(windowDump:)) }

    func stop() { process.cancel() }
}
