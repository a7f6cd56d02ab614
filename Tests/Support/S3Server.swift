import FarmModel
import Foundation
import SystemIO

/// A real S3 server (SeaweedFS, which authenticates) on loopback, with one bucket, `farm`.
package final class S3Server: Sendable {
    package let endpoint: String
    package static let keyID = "test-key"
    package static let secret = "test-secret"
    private let scratch: Scratch
    private let child: Child

    /// The virtual environment that scripts/test makes.
    package static var python: String {
        ProcessInfo.processInfo.environment["SCIFERRY_TEST_PYTHON"] ?? "\(Repository.root)/.build/test-python/bin/python"
    }

    /// - Parameter port: where the S3 interface listens; a free one when `nil`.
    package init(port: Int? = nil) throws {
        scratch = try Scratch()
        let ports = [try port ?? FreePort.find()] + (try (0..<7).map { _ in try FreePort.find() })
        endpoint = "http://127.0.0.1:\(ports[0])"
        let keys = """
            {"identities":[{"name":"t","credentials":[{"accessKey":"\(Self.keyID)","secretKey":"\(Self.secret)"}],
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
