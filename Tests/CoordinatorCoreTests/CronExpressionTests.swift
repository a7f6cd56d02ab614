import CoordinatorCore
import FarmModel
import Foundation
import Testing

@Suite struct CronExpressionTests {
    private func moment(_ text: String) throws -> Timestamp {
        let formatter = ISO8601DateFormatter()
        return Timestamp(seconds: Int64(try #require(formatter.date(from: text)).timeIntervalSince1970))
    }

    /// The moments at which it is due, from a moment on.
    private func due(_ text: String, _ zone: String, from start: String, _ count: Int) throws -> [Timestamp] {
        let expression = try CronExpression(text, zone: zone)
        var (now, result) = (try moment(start), [Timestamp]())
        for _ in 0..<count {
            now = try #require(expression.next(after: now))
            result.append(now)
        }
        return result
    }

    @Test(arguments: [
        ("30 2 * * *", "UTC", "2026-11-22T02:30:00Z", ["2026-11-23T02:30:00Z", "2026-11-24T02:30:00Z"]),
        ("30 2 * * *", "UTC", "2026-11-22T02:29:59Z", ["2026-11-22T02:30:00Z"]),
        ("*/20 * * * *", "UTC", "2026-11-22T02:35:00Z", ["2026-11-22T02:40:00Z", "2026-11-22T03:00:00Z", "2026-11-22T03:20:00Z"]),
        ("0 22 * * mon-fri", "Australia/Brisbane", "2026-11-20T00:00:00Z", ["2026-11-20T12:00:00Z", "2026-11-23T12:00:00Z"]),
        ("0 0 29 2 *", "UTC", "2026-11-22T00:00:00Z", ["2028-02-29T00:00:00Z"]),
        // The first of the month, or any Sunday.
        ("0 12 1 * 7", "UTC", "2026-11-28T13:00:00Z", ["2026-11-29T12:00:00Z", "2026-12-01T12:00:00Z", "2026-12-06T12:00:00Z"]),
        // Every second day that is a Monday too.
        ("0 0 */2 * 1", "UTC", "2026-11-22T00:00:00Z", ["2026-11-23T00:00:00Z", "2026-12-07T00:00:00Z"]),
        ("@weekly", "UTC", "2026-11-22T00:00:00Z", ["2026-11-29T00:00:00Z"]),
        ("15,45 1-3/2 * jan *", "UTC", "2026-12-31T23:00:00Z", ["2027-01-01T01:15:00Z", "2027-01-01T01:45:00Z", "2027-01-01T03:15:00Z"]),
    ]) func itIsDueWhenCrontabSays(_ text: String, _ zone: String, _ start: String, _ expected: [String]) throws {
        #expect(try due(text, zone, from: start, expected.count) == expected.map(moment), "\(text)")
    }

    /// Berlin puts its clocks from 02:00 to 03:00 on 2026-03-29 (01:00 UTC).
    @Test func whatFallsIntoTheGapIsDueAtItsEnd() throws {
        #expect(
            try due("30 2 * * *", "Europe/Berlin", from: "2026-03-28T00:00:00Z", 3)
                == ["2026-03-28T01:30:00Z", "2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"].map(moment))
        // By the time that passes nothing is left out.
        #expect(
            try due("30 * * * *", "Europe/Berlin", from: "2026-03-29T00:00:00Z", 3)
                == ["2026-03-29T00:30:00Z", "2026-03-29T01:30:00Z", "2026-03-29T02:30:00Z"].map(moment))
        // Lord Howe Island puts them by half an hour.
        #expect(
            try due("15 2 * * *", "Australia/Lord_Howe", from: "2026-10-02T20:00:00Z", 2)
                == ["2026-10-03T15:30:00Z", "2026-10-04T15:15:00Z"].map(moment))
    }

    /// And back from 03:00 to 02:00 on 2026-10-25 (01:00 UTC).
    @Test func whatComesTwiceIsDueOnce() throws {
        #expect(
            try due("30 2 * * *", "Europe/Berlin", from: "2026-10-24T01:00:00Z", 3)
                == ["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z", "2026-10-27T01:30:00Z"].map(moment))
        #expect(
            try due("30 * * * *", "Europe/Berlin", from: "2026-10-25T00:00:00Z", 3)
                == ["2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z", "2026-10-25T02:30:00Z"].map(moment))
        #expect(
            try due("0 3 * * *", "America/New_York", from: "2026-10-31T12:00:00Z", 2)
                == ["2026-11-01T08:00:00Z", "2026-11-02T08:00:00Z"].map(moment))
    }

    @Test(arguments: [
        ("* * * *", "four fields"), ("60 * * * *", "minute"), ("* 24 * * *", "hour"), ("* * 0 * *", "day"), ("* * * 13 *", "month"),
        ("* * * * 8", "weekday"), ("5-1 * * * *", "backwards"), ("*/0 * * * *", "step"), ("1,,2 * * * *", "list"), ("a * * * *", "value"),
        ("* * * foo *", "value"), ("@often", "fields"),
    ]) func whatIsNoScheduleIsRefused(_ text: String, _ part: String) {
        let error = #expect(throws: FarmError.self) { try CronExpression(text, zone: "UTC") }
        #expect(
            error?.code == "schedule.cron" && (part == "four fields" || error?.message.contains(part) ?? false), "\(error?.message ?? "")")
    }

    @Test func whatNeverComesIsNotWaitedFor() throws {
        #expect(try CronExpression("0 0 30 2 *", zone: "UTC").next(after: moment("2026-11-22T00:00:00Z")) == nil)
        let error = #expect(throws: FarmError.self) { try CronExpression("@daily", zone: "Brisbane") }
        #expect(error?.code == "schedule.zone")
    }

    /// Whatever the expression, moments rise, and none is skipped that a walk over all minutes finds.
    @Test(arguments: 0..<20) func noMomentIsLeftOut(_ seed: Int) throws {
        let zones = ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "UTC"]
        let zone = zones[seed % zones.count]
        let expression = try CronExpression("\(seed * 7 % 60) * * * *", zone: zone)
        var calendar = Calendar(identifier: .gregorian)
        calendar.timeZone = try #require(TimeZone(identifier: zone))
        let start = try moment(seed % 2 == 0 ? "2026-03-28T00:00:00Z" : "2026-10-31T00:00:00Z")
        var found: [Timestamp] = []
        for minute in 1...(3 * 24 * 60) {
            let at = start.adding(seconds: Double(minute) * 60)
            let shown = calendar.component(.minute, from: Date(timeIntervalSince1970: Double(at.milliseconds) / 1000))
            if shown == seed * 7 % 60 { found.append(at) }
        }
        var (now, seen) = (start, [Timestamp]())
        for _ in found {
            now = try #require(expression.next(after: now))
            seen.append(now)
        }
        #expect(seen == found)
    }
}
