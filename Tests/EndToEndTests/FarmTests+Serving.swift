import CoordinatorCore
import FarmModel
import Foundation
import ProcessRunner
import Support
import SystemIO
import Testing

/// Images as ordinary files.
extension FarmTests {
    /// Other people's programs get the very bytes: in one go, resumed, in four parts, from a cache, and not when nothing has changed.
    @Test(.timeLimit(.minutes(4))) func imagesAreOrdinaryFiles() async throws {
        let farm = try await TestFarm()
        try await farm.up(workers: ["w1"])
        let recipe = try await farm.recipe(run: ["dd if=/dev/urandom of=/opt/random bs=1000000 count=12"])
        let site = "\(farm.scratch.path)/site"
        let build = try await farm.sciferry(["build", recipe])
        #expect(build.succeeded, "\(build.text)")
        #expect(try await farm.sciferry(["pull", "tiny", "--site", site]).succeeded)
        let release = try #require(try await farm.releases().first).release
        let (digest, size) = (release.image.digest.hex, release.image.size)

        let log = "\(farm.scratch.path)/serve.log"
        let server = try Child("\(TestFarm.bin)/sciferry", ["serve", "--site", site, "--port", "0"], log: log)
        defer { server.kill() }
        try await farm.eventually("images are served") {
            try String(contentsOfFile: log, encoding: .utf8).contains("1 images at http://127.0.0.1:")
        }
        let text = try String(contentsOfFile: log, encoding: .utf8)
        let port = try #require(text.firstMatch(of: /127\.0\.0\.1:([0-9]+)\//).flatMap { Int($0.1) })
        let url = "http://127.0.0.1:\(port)/images/tiny/1.0/tiny_1.0_x86_64.sif"
        let proxy = try FreePort.find()
        let script = #"""
            cd "$1"; url=$2; digest=$3; size=$4; proxy=$5
            check() { echo "$digest  $1" | sha256sum -c --quiet - && rm "$1"; }
            curl -sSf -o whole "$url"; head -c 5000000 whole > part; check whole
            curl -sSf -C - -o part "$url"; check part
            aria2c -q -x4 -s4 -k1M -o four "$url"; check four
            curl -sSf -o named "${url%images/*}sha256/$digest.sif"; check named
            curl -sSf -R -o dated "$url"; [ "$(curl -sS -o none -w '%{http_code}' -z dated "$url")" = 304 ]; check dated
            [ "$(curl -sS -o none -w '%{http_code}' -H 'If-Match: "another"' "$url")" = 412 ]
            curl -sSfI -r 5-9 "$url" | grep -qi "^content-length: $size"
            [ "$(curl -sSf -r -4096 "$url" | wc -c)" = 4096 ]
            curl -sSfI "$url" > head; grep -qi "^content-length: $size" head; grep -qi '^accept-ranges: bytes' head; ! grep -qi '^content-range' head
            tag=$(sed -n 's/\r$//; s/^[Ee][Tt]ag: //p' head)
            [ "$tag" = "\"sha256-$digest\"" ]
            [ "$(curl -sS -o none -w '%{http_code} %{size_download}' -H "If-None-Match: $tag" "$url")" = '304 0' ]
            [ "$(curl -sS -o none -w '%{http_code}' -r "$size-" "$url")" = 416 ]
            [ "$(curl -sS -o none -w '%{http_code}' -H 'If-Range: "another"' -r 5- "$url")" = 200 ]
            [ "$(curl -sS -o none -w '%{http_code}' "$url.not")" = 404 ]
            curl -sSf "${url%images/*}index.json" | grep -q "\"sha256\":\"$digest\""
            curl -sSfI "${url%images/*}sha256/$digest.sif" | grep -qi '^cache-control: public, max-age=31536000, immutable'
            cat > squid.conf <<END
            http_port 127.0.0.1:$proxy
            http_access allow all
            cache_mem 64 MB
            maximum_object_size_in_memory 64 MB
            access_log stdio:$1/access.log
            cache_log $1/cache.log
            pid_filename $1/squid.pid
            shutdown_lifetime 0 seconds
            END
            chmod 777 "$1"; squid -N -f squid.conf & squid=$!; trap 'kill $squid' EXIT
            for _ in $(seq 100); do curl -s -o none -x "127.0.0.1:$proxy" "${url%images/*}index.json" && break; sleep 0.1; done
            [ "$(curl -sS -o none -w '%{http_code}' "${url%images/*}sha256/nothing.sif")" = 404 ]
            for client in one two; do curl -sSf -x "127.0.0.1:$proxy" -o $client "${url%images/*}sha256/$digest.sif"; check $client; done
            grep -c 'TCP_MEM_HIT\|TCP_HIT' access.log
            """#.replacing("\n            END", with: "\nEND")
        let work = "\(farm.scratch.path)/files"
        try Disk.makeDirectory(work)
        let result = try await ProcessRunner.run(
            Command("bash", ["-euc", script, "bash", work, url, digest, "\(size)", "\(proxy)"], deadlineSeconds: 120))
        #expect(
            result.succeeded && result.text.hasSuffix("1\n"), "\(result.text)\n\((try? String(contentsOfFile: log, encoding: .utf8)) ?? "")"
        )
    }

    /// Without anything at the site: from the coordinator's own address, and from a bucket of whole files.
    @Test(.timeLimit(.minutes(4))) func theCoordinatorAndABucketOfferImages() async throws {
        let port = try FreePort.find()
        let farm = try await TestFarm { $0.imageAddress = "127.0.0.1:\(port)" }
        try await farm.up(workers: ["w1"])
        #expect(try await farm.sciferry(["build", try await farm.recipe(version: "1.0")]).succeeded)
        let release = try #require(try await farm.releases().first).release
        @Sendable func fetch(_ url: String) async throws -> CommandResult {
            try await ProcessRunner.run(Command("sh", ["-c", "curl -sSf \"$1\" | sha256sum", "sh", url], deadlineSeconds: 30))
        }
        let name = "images/tiny/1.0/tiny_1.0_x86_64.sif"
        try await farm.eventually("the coordinator offers it") {
            try await fetch("http://127.0.0.1:\(port)/\(name)").text.contains(release.image.digest.hex)
        }

        let (site, bucket) = ("\(farm.scratch.path)/site", "\(farm.scratch.path)/plain")
        func write(_ options: [String] = []) async throws -> String {
            let result = try await farm.sciferry(["serve", "--site", site, "--static", "file:\(bucket)"] + options)
            #expect(result.succeeded, "\(result.text)")
            return result.text
        }
        #expect(try await write().contains("1 written, 0 were there"))
        let bytes = try Disk.read("\(bucket)/\(name)")
        #expect(Digest(hashing: bytes) == release.image.digest)
        #expect(try await write().contains("0 written, 1 were there"))
        // Cut short by somebody, and something that the channel never had.
        try Disk.replace("\(bucket)/\(name)", with: bytes.dropLast(5))
        try Disk.replace("\(bucket)/images/stray.sif", with: [1])
        #expect(try await write(["--delete"]).contains("1 written, 0 were there, 1 deleted"))
        #expect(try Disk.read("\(bucket)/\(name)") == bytes && !Disk.exists("\(bucket)/images/stray.sif"))
        let index = String(decoding: try Disk.read("\(bucket)/index.json"), as: UTF8.self)
        #expect(index.contains(release.image.digest.hex) && index.contains("tiny_1.0_x86_64.sif"))
    }

    /// Damage is an answer, not a wrong file; the other region serves where there is one.
    @Test(.timeLimit(.minutes(3))) func damageIsNeverServed() async throws {
        let farm = try await TestFarm()
        try await farm.up(workers: ["w1"])
        let build = try await farm.sciferry(["build", try await farm.recipe()])
        #expect(build.succeeded, "\(build.text)")
        let site = "\(farm.scratch.path)/site"
        #expect(try await farm.sciferry(["pull", "tiny", "--site", site]).succeeded)
        let digest = try #require(try await farm.releases().first).release.image.digest.hex
        let regions = ["region-a", "region-b"].map { "\(farm.home)/regions/\($0)" }
        try await farm.eventually("the mirror has it") { try await farm.jobs().first?.publication?.step == .done }
        func damage(_ region: String) throws {
            for group in try Disk.list("\(region)/packs") {
                for name in try Disk.list("\(region)/packs/\(group)") {
                    let path = "\(region)/packs/\(group)/\(name)"
                    try Disk.replace(path, with: [UInt8](repeating: 0, count: Int(Disk.size(path) ?? 0)))
                }
            }
        }
        for (count, status) in [(1, "200"), (2, "502")] {
            try damage(regions[count - 1])
            let log = "\(farm.scratch.path)/serve-\(count).log"
            let server = try Child("\(TestFarm.bin)/sciferry", ["serve", "--site", site, "--port", "0"], log: log)
            defer { server.kill() }
            try await farm.eventually("images are served") {
                try String(contentsOfFile: log, encoding: .utf8).contains("1 images at http://")
            }
            let url = try #require(try String(contentsOfFile: log, encoding: .utf8).firstMatch(of: /http:\/\/[0-9.:]+\//)).output
            let script = #"curl -sS -o "$1/got" -w '%{http_code} ' "$2"; sha256sum < "$1/got""#
            let got = try await ProcessRunner.require(
                Command("sh", ["-ec", script, "sh", farm.scratch.path, "\(url)sha256/\(digest).sif"], deadlineSeconds: 60))
            #expect(got.hasPrefix("\(status) ") && got.contains(digest) == (count == 1), "\(got)")
        }
    }
}
