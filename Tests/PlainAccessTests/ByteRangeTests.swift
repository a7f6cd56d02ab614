import PlainAccess
import Testing

/// The examples of RFC 9110, section 14.1.2, for a file of 10000 bytes, and what is not one of them.
@Suite struct ByteRangeTests {
    @Test(arguments: [
        ("bytes=0-499", 0..<500), ("bytes=500-999", 500..<1000), ("bytes=-500", 9500..<10_000), ("bytes=9500-", 9500..<10_000),
        ("bytes=9000-20000", 9000..<10_000), ("bytes=-20000", 0..<10_000), ("BYTES=0-0", 0..<1),
        ("bytes=0-9223372036854775807", 0..<10_000),
    ]) func partsAreRead(_ header: String, _ range: Range<Int64>) {
        #expect(ByteRange(header, size: 10_000) == .part(range))
    }

    @Test(arguments: ["bytes=10000-", "bytes=10000-10001", "bytes=-0"]) func whatIsBeyondTheEndIsNothing(_ header: String) {
        #expect(ByteRange(header, size: 10_000) == .none)
    }

    @Test(arguments: [
        nil, "", "bytes", "bytes=", "bytes=-", "bytes=5-4", "lines=0-1", "bytes=0-1,5-6", "bytes=a-b", "bytes=+1-2", "bytes=1-2-3",
        "bytes=99999999999999999999-",
    ]) func whatIsNoRangeIsPassedOver(_ header: String?) {
        #expect(ByteRange(header, size: 10_000) == .whole)
    }
}
