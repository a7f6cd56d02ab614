import FarmModel
import Foundation
import ProcessRunner
import SiteDelivery
import Support
import SystemIO
import Testing

/// What others' programs make of a site.
@Suite(.serialized) struct SiteExportTests: SiteFixture {
    private func probeSite(_ scratch: Scratch) async throws -> Site {
        let site = try site(scratch)
        var releases: [Release] = []
        for version in ["1.0", "1.10"] {
            var release = release(
                "probe", version, description: "It's \"the\" probe: all of it", image: version,
                categories: ["visualization", "data organisation"])
            release.commands = ["probe"]
            release.programs = [GraphicalProgram(name: "probeGUI", command: "probe args --window")]
            try await makeProbeImage(at: "\(site.imageDirectory(release.image.digest))/image.sif", in: scratch)
            try Disk.replace(
                "\(site.imageDirectory(release.image.digest))/launch",
                with: Array(try ImageLayout("\(site.imageDirectory(release.image.digest))/image.sif").launch(release).utf8))
            releases.append(release)
        }
        try site.apply("a test", now: Timestamp(seconds: 1)) { tools in
            for release in releases { tools.add(release, now: Timestamp(seconds: 1)) }
        }
        return site
    }

    /// The real shpc 0.1.32 installs from the registry, and its module's wrapper names our image.
    @Test func singularityHPCInstalls() async throws {
        guard let python = ProcessInfo.processInfo.environment["SCIFERRY_TEST_PYTHON"] else { return }
        let scratch = try Scratch()
        let site = try await probeSite(scratch)
        #expect(try SiteExport(site).write(.shpc, into: "\(scratch.path)/registry") == 2)
        let script = """
            set -e
            cd "$2"
            settings=$("$1" -c 'import os, shpc; print(os.path.join(os.path.dirname(shpc.__file__), "settings.yml"))')
            sed -e "s#^registry:.*#registry: [$2/registry]#" -e "s#^module_base:.*#module_base: $2/modules#" \
                -e "s#^container_base:.*#container_base: $2/containers#" -e "s#^wrapper_base:.*#wrapper_base: $2/wrappers#" "$settings" >settings.yml
            shpc=$(dirname "$1")/shpc
            "$shpc" --settings-file settings.yml show
            "$shpc" --settings-file settings.yml install f/probe
            "$shpc" --settings-file settings.yml install f/probe-1.0
            cat wrappers/f/probe/1.10/bin/probe
            """
        let done = try await ProcessRunner.run(Command("sh", ["-c", script, "-", python, scratch.path], deadlineSeconds: 120))
        #expect(done.succeeded && done.text.contains("f/probe-1.0\n") && done.text.contains("f/probe:1.10 was created"), "\(done.text)")
        let digest = Digest(hashing: "1.10").hex
        #expect(done.text.contains("/sha256:\(digest).sif probe"), "\(done.text)")
        // Again without the older version: its entry goes.
        _ = try site.apply("one less", now: Timestamp(seconds: 2)) { $0.removeAll { $0.version == "1.0" } }
        #expect(try SiteExport(site).write(.shpc, into: "\(scratch.path)/registry") == 1)
        #expect(try Disk.list("\(scratch.path)/registry/f") == ["probe"])
    }

    /// A script reads apps.json as neurocommand's menu does, and finds every tool's image, commands and variables where its launcher looks.
    @Test func neurocommandFindsEveryTool() async throws {
        let scratch = try Scratch()
        let site = try await probeSite(scratch)
        #expect(try SiteExport(site).write(.neurodesk, into: "\(scratch.path)/neurodesk") == 2)
        let script = """
            import json, os, subprocess, sys
            root = sys.argv[1]
            menus = json.load(open(root + "/neurodesk/apps.json"))
            listed = [item["application"] for item in json.load(open(root + "/cvmfs/applist.json"))["list"]]
            logged = [line.split()[0] for line in open(root + "/cvmfs/log.txt")]
            found = 0
            for menu, data in menus.items():
                assert data["categories"] == ["visualization", "data organisation"], data
                for title, app in data["apps"].items():
                    container = title.split("-")[1] if app["exec"] else title
                    name, version = container.split(" ")
                    image = "_".join([name, version, app["version"]])
                    place = root + "/containers/" + image
                    assert os.path.isfile(place + "/" + image + ".simg"), image
                    commands = open(place + "/commands.txt").read().split()
                    assert commands == ["probe"] and os.path.isfile(place + "/env.txt"), commands
                    assert image in listed and image in logged
                    assert os.path.isfile(root + "/containers/modules/" + name + "/" + version + ".lua")
                    assert json.load(open(root + "/releases/" + name + "/" + version + ".json"))["apps"][title] == app
                    said = subprocess.run([place + "/probe", "args", "a b"], capture_output=True, text=True, env=dict(os.environ, SCIFERRY_RUNTIME="bwrap"))
                    assert said.stdout == "1\\n<a b>\\n", said
                    found += 1
            print("found", found)
            """
        let done = try await ProcessRunner.run(
            Command(
                "python3", ["-c", script, "\(scratch.path)/neurodesk"], environment: ["SCIFERRY_MOUNTS": "\(scratch.path)/mounts"],
                deadlineSeconds: 60))
        #expect(done.text == "found 4\n", "\(done.text)")
        _ = try? await ProcessRunner.run(Command("sh", ["-c", "for m in \(scratch.path)/mounts/*; do umount -l \"$m\"; done"]))
    }

    /// The files are of the form that the specifications ask for, another program's reading of the menu has the entries where they belong,
    /// and a NIfTI's type leads to the viewer, whose command line runs.
    @Test func desktopsShowTheProgramsAndOpenImagesWithThem() async throws {
        let scratch = try Scratch()
        let site = try await probeSite(scratch)
        let (data, settings) = ("\(scratch.path)/data", "\(scratch.path)/settings")
        let menu = try DesktopMenu(site, DesktopMenu.Place(data: data, settings: settings, site: site.root))
        #expect(try menu.write() == ["probe 1.0", "probe 1.10"])
        let script = """
            set -e
            desktop-file-validate "$1"/applications/*.desktop
            update-desktop-database "$1/applications"
            update-mime-database "$1/mime" 2>/dev/null
            mkdir -p "$2/menus"
            cat >"$2/menus/applications.menu" <<'END'
            <!DOCTYPE Menu PUBLIC "-//freedesktop//DTD Menu 1.0//EN" "http://www.freedesktop.org/standards/menu-spec/1.0/menu.dtd">
            <Menu><Name>Applications</Name><DefaultAppDirs/><DefaultDirectoryDirs/><DefaultMergeDirs/></Menu>
            END
            export XDG_DATA_HOME="$1" XDG_CONFIG_HOME="$2" XDG_DATA_DIRS="/usr/share" XDG_CONFIG_DIRS="$2"
            /usr/bin/python3 - <<'END'
            from xdg.Menu import parse
            def show(menu, depth):
                print("  " * depth + "menu", menu.getName())
                for entry in menu.getEntries():
                    if hasattr(entry, "DesktopEntry"): print("  " * depth + "  entry", entry.DesktopEntry.getName())
                    elif hasattr(entry, "getEntries"): show(entry, depth + 1)
            show(parse(), 0)
            END
            : >"$1/brain.nii.gz"
            gio mime application/x-nifti
            gio info -a standard::content-type "$1/brain.nii.gz"
            """
        let done = try await ProcessRunner.run(Command("sh", ["-c", script, "-", data, settings], deadlineSeconds: 60))
        #expect(done.succeeded, "\(done.text)")
        #expect(done.text.contains("  menu Science (F)\n") || done.text.contains("  menu Science (f)\n"), "\(done.text)")
        #expect(
            done.text.contains("menu Visualization\n") && done.text.components(separatedBy: "entry probe 1.10").count == 3, "\(done.text)")
        let name = "sciferry-\(try #require(try site.configuration().id))-probe-1-10-probegui.desktop"
        #expect(done.text.contains(name) && done.text.contains("application/x-nifti"), "\(done.text)")
        // The command line, as a desktop would take it apart.
        let entry = String(decoding: try Disk.read("\(data)/applications/\(name)"), as: UTF8.self)
        #expect(
            entry.contains("Exec=\"\(Disk.realPath(site.root) ?? "")/bin/sciferry-launch\" ")
                && entry.contains(" \"probe\" \"args\" \"--window\" %F\n"), "\(entry)")
        #expect(try menu.write(isRemoval: true).isEmpty)
        #expect(try Disk.list("\(data)/applications").allSatisfy { !$0.hasPrefix("sciferry") })
    }
}
