package import FarmModel
import Foundation

/// When something is due: the five fields of crontab(5), or `@hourly`, `@daily`, `@weekly`, `@monthly`, in the clock of a time zone.
///
/// Where clocks are put forward, what falls into the hour that is left out is due at its end; where they are put back, what falls into
/// the hour that comes twice is due the first time. An expression whose hour is `*` goes by the time that passes: it is due in every
/// hour that there is, and in none that there is not.
package struct CronExpression: Sendable, Hashable {
    package let text: String
    private let minutes: Set<Int>
    private let hours: Set<Int>
    private let days: Set<Int>
    private let months: Set<Int>
    private let weekdays: Set<Int>
    /// Of days of the month and days of the week one suffices when both are given (crontab(5)).
    private let dayIsFree: Bool
    private let weekdayIsFree: Bool
    private let hourIsFree: Bool
    private let zone: TimeZone

    private static let shorthands = [
        "@hourly": "0 * * * *", "@daily": "0 0 * * *", "@midnight": "0 0 * * *", "@weekly": "0 0 * * 0", "@monthly": "0 0 1 * *",
        "@yearly": "0 0 1 1 *", "@annually": "0 0 1 1 *",
    ]
    private static let monthNames = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
    private static let weekdayNames = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"]

    /// - Parameter zone: a name of the time zone database, for example `Australia/Brisbane`.
    /// - Throws: `schedule.zone`, and `schedule.cron` with the field that is wrong.
    package init(_ text: String, zone name: String) throws {
        guard let zone = TimeZone(identifier: name) else {
            throw FarmError("schedule.zone", .invalid, "\"\(name)\" is no time zone", hint: "for example UTC or Australia/Brisbane")
        }
        let fields = (CronExpression.shorthands[text.lowercased()] ?? text).split(whereSeparator: \.isWhitespace).map(String.init)
        guard fields.count == 5 else {
            throw FarmError(
                "schedule.cron", .invalid, "\"\(text)\" has \(fields.count) fields, not five",
                hint: "minute hour day month weekday, for example \"30 2 * * 1-5\"")
        }
        func read(_ index: Int, _ what: String, _ range: ClosedRange<Int>, _ names: [String] = [], first: Int = 0) throws -> Set<Int> {
            try CronExpression.values(fields[index], what, range, names, first: first, in: text)
        }
        minutes = try read(0, "minute", 0...59)
        hours = try read(1, "hour", 0...23)
        days = try read(2, "day", 1...31)
        months = try read(3, "month", 1...12, CronExpression.monthNames, first: 1)
        // 7 is Sunday too.
        weekdays = Set(try read(4, "weekday", 0...7, CronExpression.weekdayNames).map { $0 % 7 })
        (dayIsFree, weekdayIsFree, hourIsFree) = (fields[2].hasPrefix("*"), fields[4].hasPrefix("*"), fields[1] == "*")
        self.text = text
        self.zone = zone
    }

    private static func values(
        _ field: String, _ what: String, _ range: ClosedRange<Int>, _ names: [String], first: Int, in text: String
    ) throws -> Set<Int> {
        func fail(_ why: String) -> FarmError {
            FarmError(
                "schedule.cron", .invalid, "the \(what) \"\(field)\" of \"\(text)\" \(why)",
                hint: "numbers from \(range.lowerBound) to \(range.upperBound), ranges 1-5, lists 1,3, steps */15")
        }
        func number(_ word: Substring) throws -> Int {
            if let place = names.firstIndex(of: word.lowercased()) { return place + first }
            guard let value = Int(word), range.contains(value) else { throw fail("has no value \"\(word)\"") }
            return value
        }
        var result: Set<Int> = []
        for item in field.split(separator: ",", omittingEmptySubsequences: false) {
            let parts = item.split(separator: "/", omittingEmptySubsequences: false)
            guard parts.count <= 2, let base = parts.first, !base.isEmpty else { throw fail("is no list of values") }
            var step = 1
            if parts.count == 2 {
                guard let value = Int(parts[1]), value > 0 else { throw fail("has no step \"\(parts[1])\"") }
                step = value
            }
            let bounds: ClosedRange<Int>
            if base == "*" {
                bounds = range
            } else if let dash = base.dropFirst().firstIndex(of: "-") {
                let (low, high) = (try number(base[..<dash]), try number(base[base.index(after: dash)...]))
                guard low <= high else { throw fail("goes backwards") }
                bounds = low...high
            } else {
                let value = try number(base)
                bounds = value...(parts.count == 2 ? range.upperBound : value)
            }
            result.formUnion(stride(from: bounds.lowerBound, through: bounds.upperBound, by: step))
        }
        return result
    }

    /// The first moment after `moment` at which it is due; `nil` for one that never is, as the 30th of February.
    package func next(after moment: Timestamp) -> Timestamp? {
        hourIsFree ? nextByTime(after: moment) : nextByClock(after: moment)
    }

    /// Every minute that passes, by what clocks show in it.
    private func nextByTime(after moment: Timestamp) -> Timestamp? {
        var minute = moment.milliseconds / 60_000 + 1
        let end = minute + 5 * 366 * 24 * 60
        while minute < end {
            let local = local(minute * 60)
            if !matches(day: local.day) {
                // To the next day of the clock, and never past it.
                minute += Int64(max(1, (24 * 60 - local.minute) - 61))
            } else if minutes.contains(local.minute % 60) {
                return Timestamp(milliseconds: minute * 60_000)
            } else {
                minute += 1
            }
        }
        return nil
    }

    /// Days of the calendar, and in each the times that clocks shall show.
    private func nextByClock(after moment: Timestamp) -> Timestamp? {
        let first = local(moment.milliseconds / 1000).day - 1
        for day in first..<(first + 5 * 366) where matches(day: day) {
            for hour in hours.sorted() {
                for minute in minutes.sorted() {
                    let due = instant(day: day, minute: hour * 60 + minute)
                    if due * 1000 > moment.milliseconds { return Timestamp(milliseconds: due * 1000) }
                }
            }
        }
        return nil
    }

    /// Whether a day, counted from 1970, is one of its days.
    private func matches(day: Int) -> Bool {
        let date = CronExpression.date(day)
        guard months.contains(date.month) else { return false }
        let (byDay, byWeekday) = (days.contains(date.day), weekdays.contains((day % 7 + 11) % 7))
        return dayIsFree || weekdayIsFree ? byDay && byWeekday : byDay || byWeekday
    }

    /// What a clock shows: the day from 1970, and the minute of the day.
    private func local(_ seconds: Int64) -> (day: Int, minute: Int) {
        let shown = Int(seconds) + offset(seconds)
        let day = shown >= 0 ? shown / 86400 : (shown - 86399) / 86400
        return (day, (shown - day * 86400) / 60)
    }

    private func offset(_ seconds: Int64) -> Int { zone.secondsFromGMT(for: Date(timeIntervalSince1970: Double(seconds))) }

    /// When clocks show a time of a day: the first of two moments, or the end of the gap.
    private func instant(day: Int, minute: Int) -> Int64 {
        let shown = Int64(day) * 86400 + Int64(minute) * 60
        let (before, after) = (Int64(offset(shown - 86400)), Int64(offset(shown + 86400)))
        let found = [shown - before, shown - after].filter { Int64(offset($0)) + $0 == shown }.min()
        if let found { return found }
        // The clocks skip it: the moment at which the new time begins.
        let start = Date(timeIntervalSince1970: Double(shown - max(before, after) - 86400))
        var change = zone.nextDaylightSavingTimeTransition(after: start)
        while let at = change, Int64(at.timeIntervalSince1970) + after < shown { change = zone.nextDaylightSavingTimeTransition(after: at) }
        return change.map { Int64($0.timeIntervalSince1970) } ?? shown - after
    }

    /// The month and day of a day counted from 1970 (H. Hinnant, "chrono-Compatible Low-Level Date Algorithms", civil_from_days).
    private static func date(_ day: Int) -> (month: Int, day: Int) {
        let shifted = day + 719_468
        let era = (shifted >= 0 ? shifted : shifted - 146_096) / 146_097
        let ofEra = shifted - era * 146_097
        let year = (ofEra - ofEra / 1460 + ofEra / 36_524 - ofEra / 146_096) / 365
        let ofYear = ofEra - (365 * year + year / 4 - year / 100)
        let month = (5 * ofYear + 2) / 153
        return (month < 10 ? month + 3 : month - 9, ofYear - (153 * month + 2) / 5 + 1)
    }
}
