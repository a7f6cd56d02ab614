import FarmModel
import Testing

@Suite struct HTTPDateTests {
    @Test func datesAreReadAsTheyAreWritten() {
        let published = Timestamp(seconds: 784_111_777)
        #expect(HTTPDate.text(published) == "Sun, 06 Nov 1994 08:49:37 GMT")
        #expect(HTTPDate.read("Sun, 06 Nov 1994 08:49:37 GMT") == published)
        for wrong in [
            "yesterday", "", "Sun, 06 Non 1994 08:49:37 GMT", "Sun, 06 Nov 1994 08:49 GMT", "Sun, 46 Nov 1994 08:49:37 GMT",
            "Sun, 06 Nov 1994 08:49:37 CET", "Sun, 06 Nov 1994 08:x:49:37 GMT",
        ] {
            #expect(HTTPDate.read(wrong) == nil, "\(wrong)")
        }
    }
}
