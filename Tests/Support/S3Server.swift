import FarmModel
import Foundation
import Glibc
import SystemIO

/// A real S3 server on loopback, which authenticates, with one bucket, `farm`.
package final class S3Server: Sendable {
    /// Whose S3 it is. All but SeaweedFS take packages of the system and belong to the slow tests.
    package enum Service: String, Sendable, CaseIterable {
        case seaweedfs
        case openStackSwift = "openstack-swift"
        case cephRGW = "ceph-rgw"

        /// Those to test against: all of them with `SCIFERRY_S3_SERVICES=all`.
        package static var tested: [Service] {
            ProcessInfo.processInfo.environment["SCIFERRY_S3_SERVICES"] == "all" ? allCases : [.seaweedfs]
        }
    }

    package let endpoint: String
    package static let keyID = "test-key"
    /// A second one with the same secret, on SeaweedFS.
    package static let otherKeyID = "other-key"
    package static let secret = "test-secret"
    private let scratch: Scratch
    private let child: Child

    /// The virtual environment that scripts/test makes.
    package static var python: String {
        ProcessInfo.processInfo.environment["SCIFERRY_TEST_PYTHON"] ?? "\(Repository.root)/.build/test-python/bin/python"
    }

    package convenience init(_ service: Service) throws {
        if service == .seaweedfs { try self.init() } else { try self.init(script: "serve-\(service.rawValue)") }
    }

    /// A server that one of our scripts sets up.
    private init(script: String) throws {
        scratch = try Scratch()
        let port = try FreePort.find()
        endpoint = "http://127.0.0.1:\(port)"
        let log = "\(scratch.path)/log"
        child = try Child(
            "\(Repository.root)/scripts/\(script)", ["\(port)", "\(scratch.path)/server", Self.keyID, Self.secret], log: log)
        func said() -> String { (try? Disk.read(log)).map { String(decoding: $0, as: UTF8.self) } ?? "" }
        for _ in 0..<3000 where !said().contains("ready ") && Glibc.kill(child.pid, 0) == 0 { usleep(100_000) }
        guard said().contains("ready ") else {
            child.kill()
            throw FarmError("test.s3", .fault, "\(script) did not come up: \(said())")
        }
    }

    /// - Parameter port: where the S3 interface listens; a free one when `nil`.
    package init(port: Int? = nil) throws {
        scratch = try Scratch()
        let ports = [try port ?? FreePort.find()] + (try (0..<7).map { _ in try FreePort.find() })
        endpoint = "http://127.0.0.1:\(ports[0])"
        let keys = """
            {"identities":[{"name":"t","credentials":[
             {"accessKey":"\(Self.keyID)","secretKey":"\(Self.secret)"},
             {"accessKey":"\(Self.otherKeyID)","secretKey":"\(Self.secret)"}],
            "actions":["Admin","Read","Write","List","Tagging"]}]}
            """
        try Disk.replace("\(scratch.path)/keys.json", with: Array(keys.utf8))
        try Disk.makeDirectory("\(scratch.path)/data")
        let names = [
            "s3.port", "s3.port.grpc", "master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port",
            "filer.port.grpc",
        ]
        child = try Child(
            "\(Disk.parent(of: Self.python))/weed",
            [
                "server", "-s3", "-filer", "-dir=\(scratch.path)/data", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
                "-s3.config=\(scratch.path)/keys.json", "-master.telemetry=false", "-master.volumeSizeLimitMB=256", "-volume.max=0",
                "-s3.port.iceberg=0", "-s3.port.lance=0",
            ] + zip(names, ports).map { "-\($0)=\($1)" }, log: "\(scratch.path)/log")
        // The server needs some seconds; then the bucket is made through the reference client.
        let script = """
            import os, sys, time
            os.environ.pop("AWS_CA_BUNDLE", None)
            import boto3
            from botocore.config import Config
            s3 = boto3.client("s3", endpoint_url=sys.argv[1], aws_access_key_id="\(Self.keyID)",
                aws_secret_access_key="\(Self.secret)", region_name="us-east-1", config=Config(retries={"max_attempts": 0}, connect_timeout=1))
            for _ in range(120):
                try:
                    s3.create_bucket(Bucket="farm")
                    s3.put_object(Bucket="farm", Key="ready", Body=b"")
                    s3.delete_object(Bucket="farm", Key="ready")
                    sys.exit(0)
                except Exception as error:
                    last = error
                    time.sleep(0.25)
            sys.exit(str(last))
            """
        let client = try Child(Self.python, ["-c", script, endpoint], log: "\(scratch.path)/client.log")
        guard client.wait() == 0 else {
            let log = (try? Disk.read("\(scratch.path)/client.log")).map { String(decoding: $0, as: UTF8.self) } ?? ""
            throw FarmError("test.s3", .fault, "SeaweedFS did not come up: \(log)")
        }
    }

    deinit { child.kill() }

    /// Kills the server.
    package func stop() { child.kill() }

    /// The bucket as a farm's configuration writes it.
    package func location(_ prefix: String) -> String { "s3:\(endpoint)/farm/\(prefix)?region=us-east-1" }

    /// What processes that use the bucket need in their environment.
    package static var environment: [String: String] { ["AWS_ACCESS_KEY_ID": keyID, "AWS_SECRET_ACCESS_KEY": secret] }
}
