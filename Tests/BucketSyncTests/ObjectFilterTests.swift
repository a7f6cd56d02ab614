import BucketSync
import FarmModel
import ObjectStorage
import Testing

@Suite struct ObjectFilterTests {
    /// What rclone's documentation of filtering says of its patterns, and cases of its own tests.
    @Test(arguments: [
        ("file.jpg", ["file.jpg", "directory/file.jpg"], ["afile.jpg", "directory/file.jpg.bak"]),
        ("/file.jpg", ["file.jpg"], ["afile.jpg", "directory/file.jpg"]),
        ("*.jpg", ["file.jpg", "directory/file.jpg"], ["file.jpg/anotherfile.png"]),
        ("*.j{p,pe}g", ["a.jpg", "d/a.jpeg"], ["a.jg"]),
        ("dir/**", ["dir/a", "x/dir/a/b"], ["dir", "adir/a"]),
        ("dir/", ["dir/a", "x/dir/a/b"], ["dir", "adir/a"]),
        ("/dir/*.bak", ["dir/a.bak"], ["dir/x/a.bak", "y/dir/a.bak"]),
        ("/dir/**.bak", ["dir/a.bak", "dir/x/a.bak"], ["y/dir/a.bak"]),
        ("l?ss", ["less", "d/lass"], ["floss", "l/ss"]),
        ("h[ae]llo", ["hello", "d/hallo"], ["hullo"]),
        ("h[^ae]llo", ["hullo"], ["hello"]),
        ("{one,two}_potato", ["one_potato", "two_potato"], ["three_potato"]),
        ("{{[0-9]+}}.log", ["12.log", "d/7.log"], ["x.log"]),
        ("a{b{1,2},c}d", ["ab1d", "ab2d", "acd"], ["abd"]),
        ("\\*.jpg", ["*.jpg"], ["a.jpg"]),
        ("a.b+c(d)|e", ["a.b+c(d)|e"], ["axb+c(d)|e"]),
        ("ü*", ["über", "x/ü"], ["u"]),
    ]) func patternsMatchAsTheirs(pattern: String, matching: [String], others: [String]) throws {
        let glob = try GlobPattern(pattern)
        for key in matching { #expect(glob.matches(key), "\(pattern) \(key)") }
        for key in others { #expect(!glob.matches(key), "\(pattern) \(key)") }
    }

    @Test(arguments: ["a***", "a]", "a[b", "a{b", "a}b", "a{{b", "{{[}}", "x\\"]) func whatIsNoPatternIsRefused(pattern: String) {
        let error = #expect(throws: FarmError.self) { try GlobPattern(pattern) }
        #expect(error?.code == "filter.pattern" && error?.message.contains(pattern) == true)
    }

    private func keys(_ build: (inout ObjectFilter.Options) -> Void) throws -> [String] {
        var options = ObjectFilter.Options()
        build(&options)
        let filter = try ObjectFilter(options)
        return ["a.jpg", "a.png", "d/a.jpg", "d/b.txt", "secret.jpg"].filter { filter.includes(ObjectInfo(key: $0, size: 5)) }
    }

    /// The first rule that matches decides; includes alone leave out the rest; `!` forgets.
    @Test func rulesCountInTheirOrder() throws {
        #expect(try keys { _ in }.count == 5)
        #expect(try keys { $0.include = ["*.jpg"] } == ["a.jpg", "d/a.jpg", "secret.jpg"])
        #expect(try keys { $0.exclude = ["*.jpg"] } == ["a.png", "d/b.txt"])
        #expect(try keys { $0.filter = ["- secret*.jpg", "+ *.jpg", "+ *.png", "- *"] } == ["a.jpg", "a.png", "d/a.jpg"])
        #expect(try keys { $0.filter = ["+ *.jpg", "- secret*.jpg", "- *"] } == ["a.jpg", "d/a.jpg", "secret.jpg"])
        #expect(try keys { $0.filter = ["- *", "!", "- *.png"] }.count == 4)
        #expect(try keys { ($0.include, $0.exclude) = (["*.jpg"], ["secret.jpg"]) } == ["a.jpg", "d/a.jpg", "secret.jpg"])
        #expect(try keys { $0.filesFrom = ["/a.jpg", "d/b.txt", "absent"] } == ["a.jpg", "d/b.txt"])
        #expect(try keys { ($0.include, $0.ignoresCase) = (["*.JPG"], true) } == ["a.jpg", "d/a.jpg", "secret.jpg"])
        #expect(try keys { $0.maxDepth = 1 } == ["a.jpg", "a.png", "secret.jpg"])
        #expect(try keys { $0.minSize = 6 }.isEmpty)
        #expect(try keys { $0.maxSize = 5 }.count == 5)
        let mixed = #expect(throws: FarmError.self) { try keys { ($0.filesFrom, $0.exclude) = (["a"], ["b"]) } }
        #expect(mixed?.code == "filter.mixed")
        let rule = #expect(throws: FarmError.self) { try keys { $0.filter = ["*.jpg"] } }
        #expect(rule?.code == "filter.rule")
    }

    @Test func agesCount() throws {
        var options = ObjectFilter.Options()
        options.notBefore = Timestamp(seconds: 100)
        options.notAfter = Timestamp(seconds: 200)
        let filter = try ObjectFilter(options)
        let found = [50, 100, 150, 200, 250].filter {
            filter.includes(ObjectInfo(key: "k", size: 1, modified: Timestamp(seconds: Int64($0))))
        }
        #expect(found == [100, 150, 200])
        options.notAfter = Timestamp(seconds: 50)
        let error = #expect(throws: FarmError.self) { try ObjectFilter(options) }
        #expect(error?.code == "filter.age")
    }

    @Test func bandwidthsAreRead() throws {
        func rate(_ text: String, day: Int = 1, _ hour: Int = 12, _ minute: Int = 0) throws -> [Int64?] {
            let rate = try BandwidthTimetable(text).rate(weekday: day, minute: hour * 60 + minute)
            return [rate.up, rate.down]
        }
        #expect(try rate("512") == [524_288, 524_288])
        #expect(try rate("10M:1M") == [10 << 20, 1 << 20])
        #expect(try rate("10M:off") == [10 << 20, nil])
        #expect(try rate("off") == [nil, nil])
        let table = "08:00,512k 12:00,10M 13:00,512k 18:00,30M 23:00,off"
        #expect(try rate(table, 7, 59) == [nil, nil])
        #expect(try rate(table, 8) == [524_288, 524_288])
        #expect(try rate(table, 12, 30) == [10 << 20, 10 << 20])
        #expect(try rate(table, 22, 59) == [30 << 20, 30 << 20])
        let week = "Mon-00:00,512;Fri-23:59,10M;Saturday-10:00,1M;Sun-20:00,off"
        #expect(try rate(week, day: 3) == [524_288, 524_288])
        #expect(try rate(week, day: 6, 9) == [10 << 20, 10 << 20])
        #expect(try rate(week, day: 0, 12) == [1 << 20, 1 << 20])
        #expect(try rate(week, day: 0, 21) == [nil, nil])
        for wrong in ["", "x", "25:00,1M", "08:00,", "Foo-08:00,1M", "1M:2M:3M"] {
            let error = #expect(throws: FarmError.self, "\(wrong)") { try BandwidthTimetable(wrong) }
            #expect(error?.code == "sync.bandwidth")
        }
        #expect(
            [ByteCount.read("1.5k"), ByteCount.read("2GiB"), ByteCount.read("7b", unit: 1024), ByteCount.read("5", unit: 1024)] == [
                1536, 2 << 30, 7, 5120,
            ])
    }
}
