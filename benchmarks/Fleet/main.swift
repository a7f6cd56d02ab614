import FarmIdentity
import FarmLink
import FarmMessages
import FarmModel
import FarmWire
import Foundation
import HTTPTransport
import NIOPosix
import NIOSSL
import Synchronization
import SystemIO
import WorkerCore

/// Many workers in one process, each with its own certificate and TLS connection, that do nothing but stay in contact.
///
///     sciferry-bench-fleet HOME COUNT SCRATCH
///
/// HOME is that of a running coordinator on this machine. Prints `{"connected":N}` once a second until standard input ends.
let arguments = CommandLine.arguments
guard arguments.count == 4, let count = Int(arguments[2]) else {
    FileHandle.standardError.write(Data("usage: sciferry-bench-fleet HOME COUNT SCRATCH\n".utf8))
    exit(64)
}

/// The part of `endpoints.json` that is needed here.
struct Endpoints: Codable {
    var link: String
    var api: String
}

/// One worker's papers.
struct Papers: Sendable {
    var name: String
    var context: NIOSSLContext
}

let home = arguments[1]
let connected = Atomic<Int>(0)
let endpoints = try CanonicalJSON.decode(Endpoints.self, from: try Disk.read("\(home)/endpoints.json"), source: "endpoints.json")
let authority = try Disk.read("\(home)/identity/ca.pem")
let token = String(decoding: try Disk.read("\(home)/identity/admin.token"), as: UTF8.self).trimmingCharacters(in: .whitespacesAndNewlines)
let client = HTTPClient()
let group = MultiThreadedEventLoopGroup(numberOfThreads: 1)

/// A line that whoever reads gets at once.
func say(_ text: String) { FileHandle.standardOutput.write(Data("\(text)\n".utf8)) }

func enrol(_ number: Int) async throws -> Papers {
    let name = "bench-\(number)"
    let body = try CanonicalJSON.encode(JoinTokenRequest(worker: name, trusted: true, minutes: 60))
    let response = try await client.performRetrying(
        HTTPRequest(
            "POST", "\(endpoints.api)/api/v1/tokens",
            headers: [("Authorization", "Bearer \(token)"), ("Content-Type", "application/json")],
            body: .bytes(body), authority: authority))
    guard response.isSuccess else { throw response.refusal }
    let reply: JoinTokenReply = try CanonicalJSON.decode(from: response.body, source: "the coordinator's answer")
    let worker = WorkerHome("\(arguments[3])/\(name)")
    try await Enrolment(client: client).join(try JoinToken(text: reply.token), home: worker, slots: 1)
    let credentials = LinkCredentials(
        certificatePEM: String(decoding: try Disk.read(worker.certificate), as: UTF8.self),
        keyPEM: String(decoding: try Disk.read(worker.key), as: UTF8.self), authorityPEM: String(decoding: authority, as: UTF8.self))
    return Papers(name: name, context: try credentials.clientContext())
}

/// As `WorkerAgent` does it, with the same pauses.
func live(_ papers: Papers) async {
    let address = endpoints.link.split(separator: ":")
    guard let port = Int(address[1]) else { return }
    var failures = 0
    while !Task.isCancelled {
        var hello = Sciferry_V1_Hello()
        hello.versions = [1]
        hello.worker = papers.name
        hello.process = papers.name
        hello.facts = Sciferry_V1_HostFacts(
            HostFacts(
                hostName: papers.name, architecture: "x86_64", target: "x86_64_v3", processors: 8, memoryBytes: 64 << 30,
                diskFreeBytes: 1 << 40, engine: "docker", kernel: "6", slots: 1, programVersion: Program.version))
        let pause = Mutex(2.0)
        let isHere = Atomic(false)
        try? await LinkClient(host: String(address[0]), port: port, context: papers.context, group: group).run(
            hello: hello, onDesired: { desired in pause.withLock { $0 = desired.nextContactSeconds } }
        ) { connection, _ in
            isHere.store(true, ordering: .relaxed)
            connected.add(1, ordering: .relaxed)
            var sequence: UInt64 = 0
            while true {
                sequence += 1
                let report = WorkerReport(
                    sequence: sequence, attempts: [], diskFreeBytes: 1 << 40, refusal: "", freeSlots: 1, renewalRequest: [])
                try await connection.send(Frame(.state, try Sciferry_V1_WorkerState(report)))
                try await Task.sleep(for: .seconds(pause.withLock { $0 }))
            }
        }
        if isHere.load(ordering: .relaxed) {
            connected.subtract(1, ordering: .relaxed)
            failures = 0
        }
        failures += 1
        let delay = min(5, 0.2 * Double(1 << min(failures, 6)))
        try? await Task.sleep(for: .seconds(delay * Double.random(in: 1...1.2)))
    }
}

var papers: [Papers] = []
for number in 0..<count { papers.append(try await enrol(number)) }
say("{\"enrolled\":\(papers.count)}")
let all = papers
let fleet = Task {
    await withDiscardingTaskGroup { tasks in
        for one in all { tasks.addTask { await live(one) } }
    }
}
let ticker = Task {
    while !Task.isCancelled {
        say("{\"connected\":\(connected.load(ordering: .relaxed))}")
        try await Task.sleep(for: .milliseconds(200))
    }
}
// Ends with whoever started it.
try await Blocking.run { while readLine() != nil {} }
exit(0)
