import FarmModel
import Glibc
import Support
import SystemIO
import Testing

@Suite struct FileTreeTests {
    @Test func removalFollowsNoLink() throws {
        let scratch = try Scratch()
        try Disk.makeDirectory("\(scratch.path)/tree/below")
        try Disk.replace("\(scratch.path)/kept", with: [1])
        try Disk.link("\(scratch.path)/tree/below/link", to: "../../kept")
        try Disk.link("\(scratch.path)/tree/up", to: "..")
        try Disk.remove("\(scratch.path)/tree")
        #expect(!Disk.exists("\(scratch.path)/tree") && Disk.exists("\(scratch.path)/kept"))
        try Disk.remove("\(scratch.path)/tree")
    }

    /// What a killed process has left mounted below a directory is not the directory's.
    @Test(.enabled(if: getuid() == 0)) func removalStopsAtAMount() throws {
        let scratch = try Scratch()
        let (outside, below) = ("\(scratch.path)/outside", "\(scratch.path)/tree/below")
        for path in [outside, below] { try Disk.makeDirectory(path) }
        try Disk.replace("\(outside)/kept", with: [1])
        try #require(mount(outside, below, nil, UInt(MS_BIND), nil) == 0)
        let error = #expect(throws: FarmError.self) { try Disk.remove("\(scratch.path)/tree") }
        #expect(error?.code == "file.mounted" && error?.message.contains(below) == true && Disk.exists("\(outside)/kept"))
        #expect(umount2(below, 0) == 0)
        try Disk.remove("\(scratch.path)/tree")
        #expect(Disk.exists("\(outside)/kept"))
    }
}
