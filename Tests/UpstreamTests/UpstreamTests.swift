import FarmModel
import HTTPTransport
import Support
import SystemIO
import Testing
import Upstream

@Suite struct UpstreamVersionTests {
    /// Each is older than the one after it.
    @Test(arguments: [
        ["0.9", "1.0.dev2", "1.0a1", "1.0b1", "1.0rc1", "1.0", "1.0.post1", "1.0.1", "1.1", "1.10", "2"],
        ["5.0.9", "5.0.10", "6.0.7", "6.0.7.16", "6.0.7.18"], ["1.0.20220720", "1.0.20250804"],
        ["R2019a", "R2019b"].map { $0.replacing("R", with: "") },
        ["2.0.0-alpha.1", "2.0.0-beta.2", "2.0.0-rc.1", "2.0.0"], ["24.1.9", "24.1.10", "24.2.0"],
    ]) func versionsHaveAnOrder(_ texts: [String]) throws {
        let versions = try texts.map { try #require(UpstreamVersion($0)) }
        for (index, one) in versions.enumerated() {
            for (other, later) in versions.enumerated() {
                #expect((one < later) == (index < other), "\(one) \(later)")
                #expect((one == later) == (index == other), "\(one) \(later)")
            }
        }
    }

    @Test func equalVersionsAreEqual() {
        #expect(UpstreamVersion("1.0") == UpstreamVersion("1") && UpstreamVersion("1.02") == UpstreamVersion("1.2.0"))
        for text in ["", "v1", "1 2", "latest", "1/2", String(repeating: "1", count: 65)] {
            #expect(UpstreamVersion(text) == nil, "\(text)")
        }
        #expect(UpstreamVersion("1.0rc1")?.isPrerelease == true && UpstreamVersion("1.0.post1")?.isPrerelease == false)
    }
}

@Suite struct UpstreamAnswerTests {
    private static func answer(_ kind: UpstreamSource.Kind) throws -> [UInt8] {
        try Repository.file("Tests/UpstreamTests/answers/\(kind.rawValue)")
    }

    private static let expected: [(kind: UpstreamSource.Kind, name: String, pattern: String?, current: String, newest: String)] = [
        (.githubRelease, "rordenlab/niimath", nil, "1.0.20220720", "1.0.20250804"), (.githubTag, "ANTsX/ANTs", nil, "2.5.4", "2.10.0"),
        (.gitlabRelease, "gitlab.example/group/tool", nil, "2.3.0", "2.3.1"), (.gitlabTag, "fsl/fslpy", nil, "0.36.1", "0.36.10"),
        (.gitTag, "https://git.example/fsl", nil, "6.0.6", "6.0.7.18"), (.bitbucketTag, "w/r", nil, "1.9", "1.10"),
        (.pypi, "heudiconv", nil, "0.5", "1.5.1"), (.conda, "conda-forge/fsleyes", nil, "1.12.0", "1.15.0"),
        (.cran, "oro.nifti", nil, "0.11.0", "0.11.4"), (.bioconductor, "edgeR", nil, "4.6.0", "4.8.1"),
        (.cpan, "XML-LibXML", nil, "2.0208", "2.0210"),
        (.npm, "bids-validator", nil, "1.14.14", "1.15.0"), (.crates, "nifti", nil, "0.16.0", "0.17.0"),
        (.rubygems, "r", nil, "2.0.2", "2.0.3"),
        (.debian, "dcm2niix", nil, "1.0.20220720", "1.0.20250506"), (.zenodo, "4498438", nil, "23.1.4", "23.2.3"),
        (.sourceforge, "tool", nil, "2.1.9", "2.1.58"), (.http, "https://x.example/", "mrtrix3-([0-9.]+)\\.tar", "3.0.4", "3.0.10"),
    ]

    @Test func everyKindIsUnderstoodAsItAnswers() throws {
        #expect(Set(Self.expected.map(\.kind)) == Set(UpstreamSource.Kind.allCases) && Self.expected.count >= 14)
        for item in Self.expected {
            let source = UpstreamSource(kind: item.kind, name: item.name, pattern: item.pattern)
            let releases = try UpstreamAnswer.releases(try Self.answer(item.kind), source)
            let found = try UpstreamWatch.choose(releases, source, current: item.current)
            #expect(found.newest == item.newest && found.isNew, "\(item.kind) \(found)")
            #expect(UpstreamAnswer.url(source).hasPrefix("https://"))
            #expect(try !UpstreamWatch.choose(releases, source, current: item.newest).isNew, "\(item.kind)")
        }
    }

    @Test func whatIsNoAnswerIsRefused() {
        for item in Self.expected where item.kind != .http {
            let source = UpstreamSource(kind: item.kind, name: item.name)
            for text in ["", "<html>no</html>", "{}", "[1]", "001e# service=git-upload-pack\nzzzz"] {
                let error = #expect(throws: FarmError.self, "\(item.kind) \(text)") {
                    let releases = try UpstreamAnswer.releases(Array(text.utf8), source)
                    return try UpstreamWatch.choose(releases, source, current: "1")
                }
                #expect(error?.code == "upstream.answer" || error?.code == "upstream.nothing", "\(item.kind) \(text)")
            }
        }
    }

    @Test func prereleasesCountWhereTheyShall() throws {
        var source = UpstreamSource(kind: .githubRelease, name: "a/b")
        source.prereleases = true
        let releases = try UpstreamAnswer.releases(try Self.answer(.githubRelease), source)
        #expect(try UpstreamWatch.choose(releases, source, current: "1.0.20220720").newest == "1.0.20251201-rc1")
        source.pattern = "("
        #expect(throws: FarmError.self) { try UpstreamWatch.choose(releases, source, current: "1") }
    }

    /// A pattern that could take for ever is refused; those that recipes have are not.
    @Test(arguments: [
        ("(a+)+$", false), ("(a|b)*", false), ("((a*)b)*", false), ("(a{2}){3}", false), ("(.+\\.)+", false), ("([0-9.]+\\.)+", false),
        ("(?:[0-9]+)*x", false), ("(\\.+)+", false), ("(?:[0-9][0-9]?)+x", false), ("(a?a?)*x", false), ("(-a*-?)+x", false),
        ("(?:_\\w+)+x", false), ("(?:-[a-z-]+)+x", false), ("([!-~]+\\.)+x", false), ("(\\p{P}+\\.)+x", false), ("(-*-)+x", false),
        ("(?-i:a+)+x", false), ("(?<=a)(a+)+$", false), (".*a.*b.*c.*d", false), ("[a", false), (")(", false), ("a\\", false),
        ("((a-)+b)*", false),
        ("(?:[0-9]+\\.)+[0-9]+", true), ("v([0-9]+(?:\\.[0-9]+)*)", true), ("v([0-9]+(?:[._-][0-9]+)*)", true), ("(?:[.-]\\d+)+", true),
        ("mrtrix3-([0-9.]+)\\.tar", true), ("(?:v|release-)([0-9.]+)", true), ("[(+)]+", true), ("\\(a+\\)+", true), ("(abc)+", true),
        ("(?<v>x)", true), ("(?P<v>x)", true), ("(?:v|r)?([0-9]+)", true), ("[]+]+", true),
        ("href=\"[^\"]*tool-(\\d+\\.\\d+\\.\\d+)\\.tar\\.gz\"", true),
        ("^v?(\\d+(?:\\.\\d+)*(?:rc\\d+)?)$", true),
    ]) func patternsThatNeverEndAreRefused(_ pattern: String, _ isFine: Bool) {
        #expect(((try? UpstreamPattern.check(pattern)) != nil) == isFine, "\(pattern)")
    }

    @Test func aLabelIsWhatWasFoundAndPrintable() throws {
        let source = UpstreamSource(kind: .http, name: "https://x.example/", pattern: "tool.([0-9.]+)")
        let line = String(repeating: "x", count: 5000) + "tool\u{1B}2.0<b>" + String(repeating: "y", count: 5000)
        let releases = try UpstreamAnswer.releases(Array(line.utf8), source)
        #expect(try UpstreamWatch.choose(releases, source, current: "1").label == "tool\u{FFFD}2.0")
        #expect("a\tb\u{202E}c\u{9B}\n".printable(keeping: "\t") == "a\tb\u{FFFD}c\u{FFFD}\u{FFFD}")
    }

    @Test func placesAreAskedWhereTheyAre() {
        func url(_ kind: UpstreamSource.Kind, _ name: String) -> String { UpstreamAnswer.url(UpstreamSource(kind: kind, name: name)) }
        #expect(
            url(.gitlabTag, "git.fmrib.ox.ac.uk/fsl/fslpy")
                == "https://git.fmrib.ox.ac.uk/api/v4/projects/fsl%2Ffslpy/repository/tags?per_page=100")
        #expect(
            url(.gitlabRelease, "group/sub/project") == "https://gitlab.com/api/v4/projects/group%2Fsub%2Fproject/releases?per_page=100")
        #expect(url(.gitTag, "https://x/y.git") == "https://x/y.git/info/refs?service=git-upload-pack")
    }
}

/// A real server on loopback that answers as the services do.
@Suite(.serialized) struct UpstreamWatchTests {
    private static let server = """
        import http.server, sys
        root = sys.argv[1]
        pages = {'/api.github.com/repos/a/paged/tags?per_page=100': ('[{"name": "v1.0"}]', {'Link': '<https://api.github.com/repos/a/paged/tags?per_page=100&page=2>; rel="next", <https://api.github.com/x>; rel="last"'}),
                 '/api.github.com/repos/a/paged/tags?per_page=100&page=2': ('[{"name": "v1.2"}]', {})}
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                status, body, headers = 404, b'', {}
                if self.path in pages:
                    status, body, headers = 200, pages[self.path][0].encode(), pages[self.path][1]
                elif 'limited' in self.path:
                    status, headers = 403, {'X-RateLimit-Remaining': '0'}
                elif self.path.startswith('/pypi.org/pypi/heudiconv/'):
                    status, body = 200, open(root + '/pypi', 'rb').read()
                self.send_response(status)
                for name, value in headers.items(): self.send_header(name, value)
                self.send_header('Content-Length', str(len(body)))
                self.end_headers()
                self.wfile.write(body)
            def log_message(self, *words): pass
        http.server.ThreadingHTTPServer(('127.0.0.1', int(sys.argv[2])), Handler).serve_forever()
        """

    @Test func servicesAreAskedPageByPage() async throws {
        let scratch = try Scratch()
        let port = try FreePort.find()
        let child = try Child(
            "/usr/bin/python3", ["-c", Self.server, "\(Repository.root)/Tests/UpstreamTests/answers", "\(port)"], log: "\(scratch.path)/log"
        )
        defer { child.kill() }
        let watch = UpstreamWatch(client: HTTPClient(), origin: "http://127.0.0.1:\(port)")
        let paged = UpstreamSource(kind: .githubTag, name: "a/paged")
        var found: UpstreamFinding?
        for _ in 0..<100 where found == nil {
            found = try? await watch.newest(paged, current: "1.0")
            if found == nil { try await Task.sleep(for: .milliseconds(50)) }
        }
        #expect(found == UpstreamFinding(current: "1.0", newest: "1.2", label: "v1.2"))
        #expect(try await watch.newest(UpstreamSource(kind: .pypi, name: "heudiconv"), current: "0.5").isNew)
        let absent = await #expect(throws: FarmError.self) {
            try await watch.newest(UpstreamSource(kind: .pypi, name: "nothing"), current: "1")
        }
        #expect(absent?.code == "upstream.absent")
        let limit = await #expect(throws: FarmError.self) {
            try await watch.newest(UpstreamSource(kind: .githubTag, name: "a/limited"), current: "1")
        }
        #expect(limit?.code == "upstream.limit" && limit?.hint?.contains("SCIFERRY_GITHUB_TOKEN") == true)
    }
}

@Suite struct VersionProposalTests {
    private static let recipe =
        "name: tool\nversion: 1.9 # of May\narchitectures: [x86_64]\nbuild:\n  kind: neurodocker\n  run: get tool-1.9.tgz\n  x: 11.9\n"

    @Test func aProposalIsAPatchThatApplies() throws {
        let proposal = try VersionProposal(Self.recipe, path: "recipes/tool/build.yaml", from: "1.9", to: "1.10")
        #expect(proposal.text.contains("version: \"1.10\" # of May\n"))
        #expect(proposal.leftLines == [6])
        #expect(
            proposal.patch
                == """
                --- a/recipes/tool/build.yaml
                +++ b/recipes/tool/build.yaml
                @@ -1,5 +1,5 @@
                 name: tool
                -version: 1.9 # of May
                +version: "1.10" # of May
                 architectures: [x86_64]
                 build:
                   kind: neurodocker

                """)
    }

    @Test func whatCannotBeEditedIsSaid() {
        let error = #expect(throws: FarmError.self) { try VersionProposal("name: x\nversion: \"2\"\n", path: "p", from: "1", to: "3") }
        #expect(error?.code == "upstream.edit" && error?.hint?.contains("3") == true)
    }
}
