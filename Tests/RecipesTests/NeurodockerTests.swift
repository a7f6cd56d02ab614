import FarmModel
import Foundation
import Support
import SystemIO
import Testing

@testable import Recipes

/// neurodocker's command line and JSON, and the templates that come with Sciferry.
@Suite struct NeurodockerTests {
    /// neurodocker 2.1.2's templates with their methods, and arguments that it takes.
    static let pairs: [(template: String, method: String, arguments: [String])] = [
        ("afni", "binaries", ["version=latest"]), ("afni", "source", ["version=AFNI_24.0.00"]), ("ants", "binaries", ["version=2.4.3"]),
        ("ants", "source", ["version=2.4.3"]), ("bids_validator", "binaries", ["version=1.13.0"]),
        ("cat12", "binaries", ["version=r1933_R2017b"]), ("convert3d", "binaries", ["version=1.0.0"]),
        ("dcm2niix", "binaries", ["version=v1.0.20241211"]), ("dcm2niix", "source", ["version=v1.0.20220720"]),
        ("freesurfer", "binaries", ["version=7.4.1"]), ("fsl", "binaries", ["version=6.0.7.4"]), ("jq", "binaries", ["version=1.7.1"]),
        ("jq", "source", ["version=1.6"]), ("matlabmcr", "binaries", ["version=2023b"]), ("minc", "binaries", ["version=1.9.18"]),
        (
            "miniconda", "binaries",
            ["version=latest", "conda_install=numpy traits", "pip_install=nipype", "env_name=neuro", "env_exists=false"]
        ),
        ("mricron", "binaries", ["version=1.0.20190902"]), ("mrtrix3", "binaries", ["version=3.0.4"]),
        ("mrtrix3", "source", ["version=3.0.4"]),
        ("ndfreeze", "source", ["date=20180312"]), ("neurodebian", "binaries", ["version=usa-ca", "os_codename=bookworm"]),
        ("niftyreg", "source", ["version=v1.3.9"]), ("petpvc", "binaries", ["version=1.2.4"]), ("spm12", "binaries", ["version=r7771"]),
        ("vnc", "source", ["passwd=secret"]),
    ]

    private func draft(_ request: NeurodockerRequest) throws -> RecipeDraft {
        let source = RecipeSource(path: "build.yaml", files: ["build.yaml": Array(try request.recipe().utf8)])
        let recipe = try Recipe.read(source)
        return try RecipeDraft(recipe, source, target: try recipe.target(""))
    }

    private func request(_ words: String...) throws -> NeurodockerRequest { try NeurodockerRequest(arguments: words) }

    @Test(arguments: pairs.indices, ["apt", "yum"]) func everyPublicTemplateIsKnown(_ index: Int, _ manager: String) throws {
        let (template, method, arguments) = Self.pairs[index]
        let words = ["-p", manager, "-b", "debian:bookworm", "--\(template)"] + arguments + ["method=\(method)", "--yes"]
        let request = try NeurodockerRequest(arguments: words)
        let draft = try draft(request)
        let dockerfile = try draft.dockerfile(standalone: true)
        let definition = try draft.definitionFile(base: "debian:bookworm", standalone: true)
        // What the version names is what is fetched or checked out.
        let version = arguments[0].split(separator: "=").last.map(String.init) ?? ""
        let names = version == "usa-ca" ? "us-ca" : version
        #expect(template == "afni" && method == "binaries" || dockerfile.contains(names), "\(dockerfile)")
        for text in [dockerfile, definition] { #expect(!text.contains("{{") && !text.contains("{%") && !text.contains("None")) }
        #expect(definition.contains("Bootstrap: docker\nFrom: debian:bookworm"))
        // The same through the JSON file.
        #expect(try NeurodockerRequest(json: Array(try request.json().utf8), path: "r.json") == request)
    }

    @Test func theListOfTemplatesIsTheDirectory() throws {
        let files = try Disk.list("\(Repository.root)/Sources/Recipes/Templates").map { $0.replacing(".yaml", with: "") }
        #expect(files.sorted() == BundledTemplates.names)
        #expect(Set(Self.pairs.map(\.template)).isSubset(of: BundledTemplates.names))
    }

    @Test func instructionsKeepTheirOrderAndMeaning() throws {
        let dockerfile = try draft(
            try request(
                "--pkg-manager", "apt", "--base-image", "debian:bookworm", "--arg", "A=b c", "--env", "X=a b", "Y=$X", "--install", "git",
                "opts=-q", "vim", "--copy", "a", "b", "/c", "--run=echo {{ x }}", "--run-bash", "echo \"$BASH\"", "--workdir", "/w",
                "--user",
                "someone", "--label", "k=v w", "--entrypoint", "bash -c")
        ).dockerfile(standalone: true)
        var rest = dockerfile[...]
        for part in [
            "FROM debian:bookworm", "ARG A=\"b c\"", "ENV X=\"a b\"", "ENV Y=\"$X\"", "apt-get install -y -q git vim",
            "COPY [\"a\", \"b\", \"/c\"]", "RUN echo {{ x }}", "RUN bash -c 'echo \"$BASH\"'", "WORKDIR /w", "useradd", "USER someone",
            "ENTRYPOINT [\"bash\", \"-c\"]", "USER someone", "LABEL \"k\"=\"v w\"",
        ] {
            let found = rest.range(of: part)
            #expect(found != nil, "\(part) is not where it belongs in\n\(dockerfile)")
            rest = found.map { rest[$0.upperBound...] } ?? rest
        }
    }

    @Test func whatIsSaidTwiceCountsOnceAndArgumentsReachTheBase() throws {
        let dockerfile = try draft(
            try request(
                "-p", "apt", "--arg", "TAG=bookworm", "-b", "debian:${TAG}", "--arg", "a=1", "--arg", "a=2", "--env", "A=1", "A=2",
                "--label", "k=1",
                "--label", "k=2", "--user", "me", "--add", "conf.txt", "/etc/conf.txt", "--run", "id")
        ).dockerfile(standalone: true)
        for part in [
            "FROM debian:bookworm\n", "ARG a=\"2\"\n", "ENV A=\"2\"\n", "LABEL \"k\"=\"2\"", "USER 0:0\nCOPY [\"conf.txt\"",
            "USER me\nRUN id",
        ] {
            #expect(dockerfile.contains(part), "\(part)\n\(dockerfile)")
        }
        #expect(!dockerfile.contains("A=\"1\"") && !dockerfile.contains("a=\"1\""))
    }

    @Test(arguments: [
        (["-b", "d:1"], "package manager"), (["-p", "apt"], "base image is not given"), (["-p", "zypper", "-b", "d:1"], "zypper"),
        (["-p", "apt", "-b", "d:1", "--frobnicate", "a=b"], "neither an option nor a template"),
        (["-p", "apt", "-b", "d:1", "--jq", "1.6"], "no key=value"), (["-p", "apt", "-b", "d:1", "--run"], "wants a value"),
        (["-p", "apt", "-b", "d:1", "stray"], "follows no option"), (["-p", "apt", "-b", "a:1", "-b", "b:1"], "several base images"),
        (["-p", "apt", "-b", "d:1", "--copy", "a"], "a source and a destination"),
    ]) func badCommandLinesAreNamed(_ words: [String], _ part: String) {
        let error = #expect(throws: FarmError.self) { try NeurodockerRequest(arguments: words) }
        #expect(error?.message.contains(part) == true && error?.category == .usage, "\(error?.message ?? "")")
    }

    @Test(arguments: [
        (["--jq", "verson=1.6"], "\"verson\" is no argument"), (["--jq", "method=source"], "it needs: version"),
        (["--freesurfer", "version=99"], "version \"99\" is not known"),
        (["--dcm2niix", "version=1", "method=magic"], "has no method \"magic\""),
        (["--neurodebian", "version=mars", "os_codename=x"], "\"mars\" is no mirror"),
    ]) func templatesRefuseWhatTheyDoNotKnow(_ words: [String], _ part: String) throws {
        let request = try NeurodockerRequest(arguments: ["-p", "apt", "-b", "d:1"] + words)
        let error = #expect(throws: FarmError.self) { try draft(request) }
        #expect(error?.message.contains(part) == true, "\(error?.message ?? "")")
    }

    @Test(arguments: [
        (
            "micromamba", "conda_install: \"samtools=1.19 bwa\"\n        channels: bioconda conda-forge",
            "-c bioconda -c conda-forge \"samtools=1.19\""
        ),
        ("pip", "packages: nibabel==5.2.1", "pip install --no-cache-dir  \"nibabel==5.2.1\""),
        ("r", "packages: oro.nifti", "install.packages(commandArgs(TRUE), repos = \"https://cloud.r-project.org\""),
        ("source", "url: https://x.example/t-1.0.tar.gz\n        build: cmake", "cmake -S . -B sciferry-build"),
        (
            "apt",
            "packages: jq\n        repository: https://r.example/debian\n        suite: stable\n        components: main\n        key: https://r.example/key.asc",
            "signed-by=/usr/share/keyrings/extra.gpg"
        ),
    ]) func ourOwnTemplatesServeRecipesWithoutACollection(_ name: String, _ arguments: String, _ part: String) throws {
        let text = """
            name: tool
            version: "1"
            build:
              kind: neurodocker
              base-image: debian:bookworm
              pkg-manager: apt
              directives:
                - template:
                    name: \(name)
                    \(arguments.replacing("        ", with: "        "))
            """
        let source = RecipeSource(path: "build.yaml", files: ["build.yaml": Array(text.replacing("\n        ", with: "\n        ").utf8)])
        let recipe = try Recipe.read(source)
        let draft = try RecipeDraft(recipe, source, target: try recipe.target(""))
        let dockerfile = try draft.dockerfile()
        #expect(dockerfile.contains(part), "\(dockerfile)")
        #expect(draft.definition.shared.keys.sorted() == ["sciferry:templates/\(name).yaml"])
    }
}
