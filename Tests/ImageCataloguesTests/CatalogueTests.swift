import FarmModel
import ImageCatalogues
import Testing

@Suite struct CatalogueTests {
    private func apps(_ text: String) throws -> Catalogue { try NeurodeskCatalogue.apps(Array(text.utf8), source: "apps.json") }

    @Test func neurodesksListGivesImagesWithTheirPrograms() throws {
        var catalogue = try apps(
            """
            {"fsl": {"apps": {
                "fsl 6.0": {"version": "20250101", "exec": "", "apptainer_args": ["--nv"]},
                "fsl 6.0.7": {"version": "20260416", "exec": ""},
                "eyesGUI-fsl 6.0.7": {"version": "20260416", "exec": "fsleyes"},
                "strayGUI-fsl 9": {"version": "20260416", "exec": "x"}}, "categories": ["a", "b"]},
             "lite_arm64": {"apps": {"lite_arm64 1": {"version": "20260101", "exec": ""}}, "show_in_menu": false},
             "more": {"apps": {"more 2 arm64": {"version": "20260101", "exec": ""}}},
             "odd": {"apps": {"odd": {"version": "20260101", "exec": ""}, "odd 1": {"version": "yesterday", "exec": ""},
                              "../odd 1": {"version": "20260101", "exec": ""}}}}
            """)
        #expect(
            catalogue.entries.map(\.key) == [
                "neurodesk fsl 6.0 x86_64", "neurodesk fsl 6.0.7 x86_64", "neurodesk lite 1 aarch64", "neurodesk more 2 aarch64",
            ])
        #expect(catalogue.entries[3].source.file == "more_2_arm64_20260101.simg")
        let fsl = catalogue.entries[1]
        #expect(fsl.source.file == "fsl_6.0.7_20260416.simg" && fsl.source.catalogue == "neurodesk" && fsl.categories == ["a", "b"])
        #expect(fsl.programs == [GraphicalProgram(name: "eyesGUI", command: "fsleyes")])
        #expect(catalogue.entries[0].runtimeArguments == ["--nv"] && catalogue.entries[0].programs.isEmpty)
        #expect(catalogue.remarks.count == 4 && catalogue.remarks.contains { $0.contains("strayGUI-fsl 9") })

        // Of several places each has its say; what is in a directory has a size; an image that is nowhere is left out.
        let checksum = try #require(FileChecksum(String(repeating: "AB", count: 32)))
        catalogue.place(at: [.directory("/im ages", files: ["fsl_6.0.7_20260416.sif": 7]), .web("https://x/y/")])
        // A checksum is one of the file that is there.
        catalogue.know(["fsl_6.0.7_20260416.sif": checksum])
        #expect(
            catalogue.entries[1].source.locations == [
                "file:///im%20ages/fsl_6.0.7_20260416.sif", "https://x/y/fsl_6.0.7_20260416.simg",
            ])
        #expect(catalogue.entries[1].source.size == 7 && catalogue.entries[1].source.checksum == checksum)
        #expect(catalogue.entries[0].source.locations == ["https://x/y/fsl_6.0_20250101.simg"] && catalogue.entries[0].source.size == nil)
        for entry in catalogue.entries { try entry.check() }
        var near = try apps(#"{"t": {"apps": {"t 1": {"version": "20260101", "exec": ""}}}}"#)
        near.place(at: [.directory("/x", files: [:])])
        #expect(near.entries.isEmpty && near.remarks == ["1 images are not there: t_1_20260101.simg"])
        #expect(throws: FarmError.self) { try self.apps("[1]") }
    }

    @Test func ofOneVersionTheNewestDayCounts() throws {
        let old = #"{"apps": {"t 1": {"version": "20250101", "exec": ""}}, "architecture": "aarch64"}"#
        let new = #"{"apps": {"t 1": {"version": "20260101", "exec": ""}}, "architecture": "aarch64"}"#
        for files in [[old, new], [new, old]] {
            let catalogue = try NeurodeskCatalogue.releases(files.enumerated().map { ("\($0.offset).json", Array($0.element.utf8)) })
            #expect(catalogue.entries.map(\.source.file) == ["t_1_20260101.simg"] && catalogue.entries[0].architecture == "aarch64")
        }
        do {
            _ = try NeurodeskCatalogue.releases([("releases/t/1.json", Array("{}".utf8))])
            Issue.record("an empty release was taken")
        } catch let error as FarmError { #expect(error.code == "catalogue.invalid" && error.message.contains("releases/t/1.json")) }
    }

    /// Hashes that the Galaxy project's own program gives.
    @Test func mulledNamesAreGalaxys() throws {
        func name(_ text: String, build: String? = nil) throws -> String {
            let name = MulledName(try MulledName.packages(text), build: build)
            return "\(name.name):\(name.tag)"
        }
        let names = "mulled-v2-8186960447c5cb2faa697666dc1e6d919ad23f3e"
        #expect(try name("samtools=1.3.1,bedtools=2.26.0") == "\(names):a6419f25efff953fc505dbd5ee734856180bb619")
        #expect(try name("bedtools=2.26.0, samtools=1.3.1", build: "0") == "\(names):a6419f25efff953fc505dbd5ee734856180bb619-0")
        #expect(try name("samtools=1.3.1=h9071d68_10,bedtools=2.26.0=0") == "\(names):8e86df67d257ce6494ae12b2c60e1b94025ea529")
        #expect(try name("samtools,bedtools", build: "0") == "\(names):0")
        #expect(try name("samtools=1.9=h91753b0_8") == "samtools:1.9--h91753b0_8" && name("samtools") == "samtools:latest")
        for bad in ["", "a,,b", "a=1,a=2", "a=1=2=3", "../a"] { #expect(throws: FarmError.self) { try MulledName.packages(bad) } }
    }

    @Test func aDepotsPageIsRead() throws {
        let page = """
            <html><a href="../">../</a> <a href="?C=M">m</a>
            <a href="samtools%3A1.9--h91753b0_8">samtools</a> 2018 <A HREF='samtools:1.9--h0_10'>x</A> <a href="samtools:1.9--h0_10">x</a>
            <a href="samtools:1.10--h0_0">x</a> <a href="nothing.txt">n</a> <a href="https://elsewhere/a:1">e</a>
            <a href="mulled-v2-8186960447c5cb2faa697666dc1e6d919ad23f3e:a6419f25efff953fc505dbd5ee734856180bb619-1">m</a>
            <a href="mulled-v2-ffff960447c5cb2faa697666dc1e6d919ad23f3e:0">m</a></html>
            """
        let known = DepotListing.combinations([
            ("hash.tsv", Array("#targets\tbase\tbuild\nsamtools=1.3.1,bedtools=2.26.0\tx\t0\n,\t\n_r-mutex,a\n".utf8))
        ])
        #expect(known.packages.count == 2 && known.remarks == ["1 lines are no list of packages: hash.tsv, line 3"])
        let catalogue = try DepotListing.read(Array(page.utf8), combinations: known.packages)
        #expect(catalogue.entries.count == 4 && catalogue.remarks.count == 2, "\(catalogue.remarks)")
        let samtools = catalogue.entries.filter { $0.name == "samtools" }
        #expect(samtools.map(\.version) == ["1.10", "1.9"] && samtools[1].source.file == "samtools:1.9--h0_10")
        #expect(samtools[1].source.packages == ["samtools=1.9"])
        let several = try #require(catalogue.entries.first { $0.name.hasPrefix("mulled-v2-8186") })
        #expect(several.description == "bedtools 2.26.0, samtools 1.3.1")
        #expect(several.version == "a6419f25efff953fc505dbd5ee734856180bb619-1")
        let lines = try DepotListing.read(Array("a:1--0  12M\n./b:2\n".utf8))
        #expect(lines.entries.map(\.title) == ["a 1", "b 2"])
        #expect(throws: FarmError.self) { try DepotListing.read(Array("nothing here\n".utf8)) }
    }

    @Test func wishesMeetVersionsUnderTheirOtherNames() {
        func match(_ name: String, _ wanted: String?, _ version: String) -> Int { ReleaseWish(name: name, version: wanted).match(version) }
        #expect(match("fsl", nil, "6") == 2 && match("fsl", "6", "6") == 2 && match("fsl", "6", "6.1") == 0)
        #expect(match("fsl", "1.0", "1.0-beta") == 0 && match("fsl", "1.0-beta", "1.0") == 0)
        #expect(match("samtools", "1.9--h91753b0_8", "1.9") == 1 && match("samtools", "1.9--h91753b0_8", "1.10") == 0)
        #expect(match("mulled-v2-ab", "cd", "cd-0") == 1 && match("mulled-v2-ab", "cd", "cde-0") == 0)
    }

    @Test func checksumsAreReadInTheirUsualForms() throws {
        let (md5, sha) = (String(repeating: "a", count: 32), String(repeating: "b", count: 64))
        let text = "# note\n\(md5)  x/one.simg\n\(sha) *two.simg\nSHA256 (three.simg) = \(sha.uppercased())\nMD5 (two.simg) = \(md5)\n\n"
        let list = try ChecksumList.read(Array(text.utf8), source: "sums")
        #expect(list.mapValues(\.description) == ["one.simg": "md5:\(md5)", "two.simg": "sha256:\(sha)", "three.simg": "sha256:\(sha)"])
        for bad in ["\(sha)", "zz  x", "\(md5)a  x", "\(sha) x\n\(sha.replacing("b", with: "c")) x"] {
            #expect(throws: FarmError.self) { try ChecksumList.read(Array(bad.utf8), source: "sums") }
        }
    }

    @Test func entriesThatCouldDoHarmAreRefused() throws {
        let good = CatalogueEntry(
            name: "t", version: "1", architecture: "x86_64",
            source: ImportSource(catalogue: "c", file: "t.simg", locations: ["https://x/t.simg"]))
        try good.check()
        let changes: [(inout CatalogueEntry) -> Void] = [
            { $0.name = "../t" }, { $0.version = "1/2" }, { $0.architecture = "vax" }, { $0.source.file = "a/b" },
            { $0.source.locations = [] }, { $0.source.locations = ["ftp://x/t"] }, { $0.source.locations = ["file://host/t"] },
            { $0.source.locations = ["https://x/a b"] }, { $0.source.locations = ["https://me:secret@x/t"] },
            { $0.source.size = Int64.max }, { $0.commands = ["a b"] }, { $0.source.size = 0 }, { $0.source.catalogue = "" },
            { $0.description = String(repeating: "x", count: 10_001) }, { $0.source.file = "a\u{1B}[2Jb" },
        ]
        var signed = good
        signed.source.locations = ["https://x/t.simg?signature=secret"]
        #expect(signed.source.shownLocations == ["https://x/t.simg"] && ImportOrigin(signed.source).locations == ["https://x/t.simg"])
        for (number, change) in changes.enumerated() {
            var bad = good
            change(&bad)
            #expect(throws: FarmError.self, "change \(number)") { try bad.check() }
        }
    }
}
