import CoordinatorCore
import FarmModel
import Support
import SystemIO
import Testing

@Suite struct FarmConfigurationTests {
    @Test func imagesArePackedAsTheFarmSays() throws {
        let scratch = try Scratch()
        let path = "\(scratch.path)/farm.json"
        func read(_ images: String) throws -> FarmConfiguration {
            let text = #"{"farm": "f", "regions": [{"name": "a", "bucket": "file:/x"}], "images": \#(images)}"#
            try Disk.replace(path, with: Array(text.utf8))
            return try FarmConfiguration.read(path)
        }
        let gzip = try read(#"{"compression": "gzip"}"#).images
        #expect(gzip.format(isCandidate: false) == ImageFormat(compression: .gzip, level: 9))
        #expect(gzip.format(isCandidate: true) == ImageFormat(compression: .gzip, level: 9))
        let usual = try read("{}").images
        #expect(usual.format(isCandidate: false) == ImageFormat() && usual.format(isCandidate: true).level == 3)
        for wrong in [#"{"compression": "xz"}"#, #"{"level": 99}"#, #"{"compression": "gzip", "level": 12}"#] {
            #expect(throws: FarmError.self) { try read(wrong) }
        }
    }
}
