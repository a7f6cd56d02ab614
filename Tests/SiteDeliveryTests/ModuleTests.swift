import FoundationEssentials
import FarmModel
import ProcessRunner
import SiteDelivery
import Support
import SystemIO
import Testing

/// Module files, read by Lmod and by Environment Modules.
@Suite(.serialized) struct ModuleTests: SiteFixture {
    private static let lmod = "/usr/share/lmod/lmod/init"

    private func shell(_ name: String, _ script: String, _ site: Site, variables: [String: String?] = [:]) async throws -> String {
        var environment: [String: String?] = [
            "PATH": "/usr/local/bin:/usr/bin:/bin", "SITE": site.root, "MODULEPATH": nil, "LMOD_SYSTEM_DEFAULT_MODULES": nil,
            "LMOD_PAGER": "none",
        ]
        environment.merge(variables) { $1 }
        return try await ProcessRunner.run(Command(name, ["-c", script], environment: environment, deadlineSeconds: 60)).text
    }

    private func lmod(_ script: String, _ site: Site) async throws -> String {
        try await shell("bash", ". \(Self.lmod)/bash; module use \"$SITE/modules\"; \(script)", site)
    }

    /// Environment Modules; `nil` where it cannot be had.
    private func environmentModules(_ words: String, then script: String, _ site: Site) async throws -> String? {
        let place = "/tmp/sciferry-environment-modules"
        let made = try await ProcessRunner.run(
            Command("\(Repository.root)/scripts/install-environment-modules", [place], deadlineSeconds: 120))
        guard made.succeeded else { return nil }
        return try await shell(
            "bash",
            "export MODULERCFILE=\"$SITE/current/modulerc\" MODULEPATH=\"$SITE/modules\"; eval \"$(\(place)/modulecmd bash \(words))\"; \(script)",
            site)
    }

    /// Tools with their images' directories, which nothing runs.
    private func carried(_ releases: [Release], _ scratch: Scratch, _ appearance: SiteAppearance = SiteAppearance()) throws -> Site {
        let site = try site(scratch)
        try site.apply("a test", now: Timestamp(seconds: 1), look: appearance) { tools in
            for release in releases { tools.add(release, now: Timestamp(seconds: 1)) }
        }
        return site
    }

    @Test(arguments: ["plain", "with \"quotes\" and \\ and ]===] and }]$x\nlines", "ünï $(id) `id` [exit 3]"])
    func moduleFilesHoldAnyText(_ text: String) async throws {
        let scratch = try Scratch()
        let site = try carried([release(description: text)], scratch)
        let line = text.split(separator: "\n")[0]
        let said = try await lmod("module help tool 2>&1; module whatis tool 2>&1; module load tool && echo \"$SCIFERRY_TOOL_IMAGE\"", site)
        #expect(said.contains("/images/\(Digest(hashing: "i").hex)/image.sif") && said.contains(line), "\(said)")
        if let told = try await environmentModules(
            "load tool", then: "echo \"$SCIFERRY_TOOL_IMAGE\"; /tmp/sciferry-environment-modules/modulecmd bash help tool 2>&1", site)
        {
            #expect(told.contains("/images/\(Digest(hashing: "i").hex)/image.sif") && told.contains(line), "\(told)")
        }
    }

    @Test func modulesSayWhatIsToBeCited() async throws {
        let scratch = try Scratch()
        var release = release()
        release.citation =
            "A (2016), doi:10.1016/j.x.2016.03.001.\nB, https://doi.org/10.1016/S0000-1(02)00099-5; C (10.1016/j.x.2016.03.001)"
        #expect(release.cited == ["10.1016/j.x.2016.03.001", "10.1016/S0000-1(02)00099-5"])
        let site = try carried([release], scratch)
        let said = try await lmod("module help tool 2>&1; module whatis tool 2>&1", site)
        #expect(
            said.contains("Please cite: A (2016)") && said.contains("DOI: 10.1016/j.x.2016.03.001, 10.1016/S0000-1(02)00099-5"), "\(said)")
        release.citation = "nothing of the kind"
        #expect(release.cited.isEmpty)
    }

    /// Out of sight, not meant by the name alone, there by its version, and with a word of warning.
    @Test func whatIsYankedIsHiddenAndWarnsOf() async throws {
        let scratch = try Scratch()
        let site = try carried([release("tool", "1.0"), release("tool", "2.0", image: "j")], scratch)
        #expect(try await lmod("module load tool; module -t list 2>&1", site).contains("tool/2.0"))
        try site.apply("a yank", now: Timestamp(seconds: 2)) { tools in
            for index in tools.indices where tools[index].version == "2.0" { tools[index].yanked = "it's \"wrong\" $x" }
        }
        let said = try await lmod("module -t avail 2>&1; echo ==; module load tool; module -t list 2>&1; module load tool/2.0 2>&1", site)
        let parts = said.split(separator: "==\n")
        #expect(parts[0].contains("tool/1.0") && !parts[0].contains("tool/2.0"), "\(said)")
        #expect(parts[1].hasPrefix("tool/1.0") && parts[1].contains("tool/2.0 is yanked: it's \"wrong\" $x"), "\(said)")
        if let told = try await environmentModules("load tool/2.0", then: "echo $SCIFERRY_TOOL_VERSION", site) {
            #expect(told.contains("tool/2.0 is yanked: it's \"wrong\" $x") && told.contains("2.0\n"), "\(told)")
        }
        #expect(try await environmentModules("load tool", then: "echo $SCIFERRY_TOOL_VERSION", site)?.hasSuffix("1.0\n") ?? true)
    }

    @Test(arguments: ["bash", "dash", "zsh", "tcsh", "fish"]) func everyShellLoadsAndUnloads(_ name: String) async throws {
        let scratch = try Scratch()
        let site = try carried([release()], scratch)
        let files = ["bash": "bash", "dash": "sh", "zsh": "zsh", "tcsh": "csh", "fish": "fish"]
        let file = "\(Self.lmod)/\(files[name] ?? name)"
        let isPOSIX = name != "tcsh" && name != "fish"
        let ours = isPOSIX ? "sh" : files[name] ?? name
        // Not what module systems and shells keep for themselves.
        let list = "env | grep -vE '^(_|__|LMOD|LOADEDMODULES|_LM|_ModuleTable|MODULEPATH|OLDPWD|SHLVL|BASH_FUNC|PATH=)|^ |^}' | sort"
        let word = isPOSIX ? "." : "source"
        let lines = [
            "\(word) \(file)", "\(word) \"$SCIFERRY_SITE/init/\(ours)\"", "echo BEFORE", list, "echo PATH:$PATH", "echo LOADED",
            "module load tool",
            "which tool", "module unload tool", "echo AFTER", list, "echo PATH:$PATH",
        ]
        let said = try await shell(name, lines.joined(separator: "\n"), site, variables: ["SCIFERRY_SITE": site.root])
        let parts = said.components(separatedBy: "BEFORE\n").last?.components(separatedBy: "LOADED\n") ?? []
        let rest = parts.last?.components(separatedBy: "AFTER\n") ?? []
        #expect(parts.count == 2 && rest.count == 2 && rest[0].hasSuffix("/bin/tool\n") && rest[0].contains("/tools/tool/1.0-"), "\(said)")
        let (before, after) = (parts.first?.split(separator: "\n") ?? [], rest.last?.split(separator: "\n") ?? [])
        #expect(before == after, "\(Set(before).symmetricDifference(after))")
    }

    @Test func namesFindToolsAndVersions() async throws {
        let scratch = try Scratch()
        var appearance = SiteAppearance()
        appearance.hidden = ["tool/1.*"]
        appearance.defaults = ["other": "1.0"]
        appearance.workflows = [.init(name: "study", version: "2026", description: "Both.", modules: ["tool/2.0", "other"])]
        appearance.luaHook = "setenv(\"FROM_THE_SITE\", \"lua\")"
        appearance.tclHook = "setenv FROM_THE_SITE tcl"
        let site = try carried(
            [release("tool", "1.0"), release("tool", "2.0"), release("other", "1.0"), release("other", "1.10"), release("third")], scratch,
            appearance)
        let listed = try await lmod("module -t avail 2>&1", site)
        #expect(listed.contains("tool/2.0") && !listed.contains("tool/1.0") && listed.contains("study/2026"), "\(listed)")
        let spider = try await lmod("module spider found 2>&1", site)
        #expect(spider.contains("found/2.0 (E)") || spider.contains("tool/2.0"), "\(spider)")
        let loaded = try await lmod(
            "module load other tool/1.0; module -t list 2>&1; echo $FROM_THE_SITE; module load study; module -t list 2>&1", site)
        #expect(loaded.contains("other/1.0\ntool/1.0\nlua\n"), "\(loaded)")
        #expect(loaded.hasSuffix("\nother/1.0\ntool/2.0\nstudy/2026\n"), "\(loaded)")
        guard let told = try await environmentModules("avail -t", then: "", site) else { return }
        #expect(told.contains("tool/2.0") && !told.contains("tool/1.0\n"), "\(told)")
        let both = try await environmentModules("load study", then: "echo \"$LOADEDMODULES\"; echo $FROM_THE_SITE; type -p tool", site)
        #expect(
            both?.contains("tool/2.0") == true && both?.contains("other/1.0") == true && both?.contains("tcl\n") == true, "\(both ?? "")")
    }

    @Test(arguments: SiteAppearance.Naming.allCases) func namingIsTheSites(_ naming: SiteAppearance.Naming) async throws {
        let scratch = try Scratch()
        var appearance = SiteAppearance()
        appearance.naming = naming
        let site = try carried([release(categories: ["Functional imaging", "structural imaging"])], scratch, appearance)
        let (path, module) =
            switch naming {
            case .flat: ("modules", "tool/1.0")
            case .category: ("modules", "functional-imaging/tool/1.0")
            case .easybuild: ("modules/all", "tool/1.0")
            }
        for path in naming == .easybuild ? [path, "modules/functional-imaging", "modules/structural-imaging"] : [path] {
            let said = try await shell(
                "bash", ". \(Self.lmod)/bash; module use \"$SITE/\(path)\"; module -t avail 2>&1; module load \(module); type -p tool", site
            )
            #expect(said.contains("\(module)\n") && said.contains("/tools/tool/1.0-") && said.hasSuffix("/bin/tool\n"), "\(said)")
        }
        let told = try await environmentModules(
            "use \"$SITE/\(path)\"", then: "eval \"$(/tmp/sciferry-environment-modules/modulecmd bash load \(module))\"; type -p tool", site
        )
        if let told { #expect(told.hasSuffix("/bin/tool\n"), "\(told)") }
    }

    /// What is asked for and not there keeps nothing else from being shown.
    @Test func whatASiteDoesNotCarryIsNotShown() throws {
        let scratch = try Scratch()
        var appearance = SiteAppearance()
        appearance.defaults = ["tool": "9", "other": "1.0"]
        appearance.workflows = [.init(name: "w", version: "1", description: "", modules: ["absent", "tool"])]
        let site = try carried([release(), release("other", "1.0"), release("other", "2.0")], scratch, appearance)
        #expect(Disk.exists("\(site.root)/modules/tool/1.0.lua") && !Disk.exists("\(site.root)/modules/w"))
        #expect(!Disk.exists("\(site.root)/modules/tool/.modulerc.lua") && Disk.exists("\(site.root)/modules/other/.modulerc.lua"))
    }

    /// What was loaded is what goes, though another build of it has come in between.
    @Test func anUpdateIsNoHindranceToUnloading() async throws {
        let scratch = try Scratch()
        let site = try carried([release()], scratch)
        let old = try #require(Disk.realPath("\(site.root)/wrappers/tool/1.0"))
        try site.apply("another build", now: Timestamp(seconds: 2)) { $0.add(release(image: "j"), now: Timestamp(seconds: 2)) }
        let update = "ln -sfn generations/2 \"$SITE/current\""
        let script =
            "ln -sfn generations/1 \"$SITE/current\"; module load tool; echo \"$PATH\"; \(update); module unload tool; echo \"$PATH$SCIFERRY_TOOL_TOOL\""
        let lines = try await lmod(script, site).split(separator: "\n")
        #expect(lines.count == 2 && lines[0].contains("\(old)/bin:") && !lines[1].contains("/tools/"), "\(lines)")
        let cmd = "/tmp/sciferry-environment-modules/modulecmd bash"
        let told = try await environmentModules(
            "load tool", then: "echo \"$PATH\"; \(update); eval \"$(\(cmd) unload tool)\"; echo \"$PATH$SCIFERRY_TOOL_TOOL\"", site)
        if let lines = told?.split(separator: "\n") {
            #expect(lines.count == 2 && lines[0].contains("/tools/tool/") && !lines[1].contains("/tools/"), "\(lines)")
        }
    }

    /// The cache names what users see, and Lmod reads it instead of the modules.
    @Test func theSpiderCacheIsReadInstead() async throws {
        let scratch = try Scratch()
        let site = try carried([release("tool", "1.0"), release("other", "2.0")], scratch)
        #expect(try await SpiderCache(site).refresh())
        let real = Disk.realPath(site.root) ?? site.root
        let script = ". \(Self.lmod)/bash; export LMOD_RC=\"\(real)/cache/lmodrc.lua\"; module use \"\(real)/modules\"; "
        // What is in the modules now cannot be seen any more but through the cache.
        let before = try await shell("bash", script + "module -t spider 2>&1", site)
        #expect(before.contains("other/2.0") && before.contains("tool/1.0"), "\(before)")
        // A list reads names alone, and says the same.
        let withCommands = try await shell("bash", script + "module avail 2>&1", site)
        #expect(withCommands.contains("found (E)"), "\(withCommands)")
        let lists =
            "export LMOD_AVAIL_EXTENSIONS=no; module avail 2>&1; module --default avail 2>&1; module avail tool 2>&1; module -t avail 2>&1"
        let thin = try await shell("bash", script + lists, site)
        #expect(Disk.exists("\(real)/cache/names/spiderT.lua") && thin.contains("other/2.0"), "\(thin)")
        try Disk.rename("\(real)/cache/names", to: "\(real)/cache/away")
        let whole = try await shell("bash", script + lists, site)
        #expect(whole == thin, "\(whole) \(thin)")
        try Disk.remove("\(real)/generations/1/modules/other")
        let after = try await shell("bash", script + "module -t spider 2>&1; module spider found 2>&1", site)
        #expect(after.contains("other/2.0") && after.contains("found/1.0"), "\(after)")
    }
}
