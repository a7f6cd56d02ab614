import ArgumentParser
import FarmModel
import Foundation
import Glibc
import ProcessRunner
import SiteDelivery
import SystemIO

struct SiteExportCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "export", abstract: "Write what a site carries in the form of other people's programs.",
        discussion: """
            shpc: a registry for singularity-hpc. neurodesk: apps.json, releases, applist and containers/ for neurocommand and Neurodesktop.
            Images are links into the site. The same again writes what has changed and removes what went.
            Examples:
              sciferry site export --format shpc --into ~/registry && shpc config add registry:~/registry
              sciferry site export --format neurodesk --into /srv/neurodesk
            """)

    enum Form: String, ExpressibleByArgument, CaseIterable { case shpc, neurodesk }

    @OptionGroup var site: SiteOptions
    @Option(help: "shpc or neurodesk.") var format: Form
    @Option(help: "The directory.", completion: .directory) var into: String
    @Flag(help: "Print JSON.") var json = false

    func run() async throws {
        try await reporting {
            let count = try SiteExport(site.open()).write(SiteExport.Format(rawValue: format.rawValue) ?? .shpc, into: into)
            if json { return try Console.json(["tools": count]) }
            Console.print("\(count) tools are in \(into)")
        }
    }
}

struct SiteMenuCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "menu", abstract: "Put a site's programs with windows into the desktop's menu.",
        discussion: """
            For this user, or with --system for all of this machine. `outputs.menu` in site.yaml has every sync do it. Opening an image by a double
            click finds its viewer.
            Examples:
              sciferry site menu --site /software
              sciferry site menu --site /software --system
              sciferry site menu --site /software --remove
            """)

    @OptionGroup var site: SiteOptions
    @Flag(help: "For all users of this machine.") var system = false
    @Option(help: "A directory, for machines whose XDG_DATA_DIRS has its share and whose XDG_CONFIG_DIRS its xdg.", completion: .directory)
    var into: String?
    @Flag(help: "Take the entries away.") var remove = false
    @Flag(help: "Print JSON.") var json = false

    func run() async throws {
        try await reporting {
            let site = try site.open()
            let place = try DesktopMenu.Place(
                into ?? (system ? "system" : "user"), site: site, environment: ProcessInfo.processInfo.environment)
            let menu = try DesktopMenu(site, place)
            let programs = try menu.write(isRemoval: remove)
            await menu.refreshCaches()
            if json { return try Console.json(programs) }
            Console.print(
                remove
                    ? "the entries are gone from \(place.data)"
                    : "\(programs.count) programs are in the menu: \(programs.joined(separator: ", "))")
        }
    }
}
