import FarmModel
import HTTPTypes
import PlainAccess
import Testing

@Suite struct PreconditionTests {
    private let published = Timestamp(seconds: 784_111_777)

    private func status(_ headers: HTTPFields) -> Int? { Precondition(headers, tag: "\"t\"", modified: published).status?.code }

    @Test func whatIsKnownIsNotSentAgain() {
        #expect(status([:]) == nil)
        for list in ["\"t\"", "W/\"t\"", "\"a\", \"t\"", "*"] { #expect(status([.ifNoneMatch: list]) == 304, "\(list)") }
        #expect(status([.ifNoneMatch: "\"a\""]) == nil)
        #expect(status([.ifModifiedSince: "Sun, 06 Nov 1994 08:49:37 GMT"]) == 304)
        #expect(status([.ifModifiedSince: "Sun, 06 Nov 1994 08:49:36 GMT"]) == nil && status([.ifModifiedSince: "x"]) == nil)
        // A tag tells more than a date.
        #expect(status([.ifNoneMatch: "\"a\"", .ifModifiedSince: "Sun, 06 Nov 1994 08:49:37 GMT"]) == nil)
    }

    @Test func anotherFileThanWasMeantIsNotSent() {
        #expect(status([.ifMatch: "\"a\""]) == 412 && status([.ifMatch: "\"t\""]) == nil && status([.ifMatch: "W/\"t\""]) == 412)
        #expect(status([.ifUnmodifiedSince: "Sun, 06 Nov 1994 08:49:36 GMT"]) == 412)
        #expect(status([.ifUnmodifiedSince: "Sun, 06 Nov 1994 08:49:37 GMT"]) == nil)
    }
}
