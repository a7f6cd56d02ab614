import FarmModel
import Foundation
import Glibc
import Synchronization

/// Bytes a second that may be read and written, by the time of the day; `nil` for no limit.
package struct BandwidthTimetable: Sendable, Hashable {
    package struct Rate: Sendable, Hashable {
        package var up: Int64?
        package var down: Int64?
    }

    /// From when on a rate holds: minutes since the week began (Sunday 00:00), or since midnight of every day.
    struct Entry: Sendable, Hashable {
        var weekday: Int?
        var minute: Int
        var rate: Rate
    }

    private let entries: [Entry]

    /// Reads `10M`, `10M:1M` (up and down), or a timetable of `[WEEKDAY-]HH:MM,RATE` with spaces or semicolons between, as rclone does: numbers
    /// are KiB a second unless B, K, M, G or T follows; `off` and 0 are no limit. Throws `sync.bandwidth`.
    package init(_ text: String) throws {
        func wrong(_ part: Substring) -> FarmError {
            FarmError(
                "sync.bandwidth", .usage, "\"\(part)\" is no bandwidth", hint: "write 10M, 10M:1M, or \"08:00,512k 19:00,10M 23:00,off\"")
        }
        let parts = text.split { $0 == " " || $0 == ";" }
        if parts.count == 1, !parts[0].contains(",") {
            guard let rate = BandwidthTimetable.rate(parts[0]) else { throw wrong(parts[0]) }
            entries = [Entry(minute: 0, rate: rate)]
            return
        }
        entries = try parts.map { part in
            let pair = part.split(separator: ",", maxSplits: 1)
            guard pair.count == 2, let rate = BandwidthTimetable.rate(pair[1]), let when = BandwidthTimetable.moment(pair[0]) else {
                throw wrong(part)
            }
            return Entry(weekday: when.weekday, minute: when.minute, rate: rate)
        }
        if entries.isEmpty { throw wrong(text[...]) }
    }

    /// What holds at a time of the week in local time.
    ///
    /// - Parameters:
    ///   - weekday: 0 for Sunday.
    ///   - minute: since midnight.
    package func rate(weekday: Int, minute: Int) -> Rate {
        let now = weekday * 1440 + minute
        let starts = entries.flatMap { entry in
            (entry.weekday.map { [$0] } ?? Array(0..<7)).map { (start: $0 * 1440 + entry.minute, rate: entry.rate) }
        }.sorted { $0.start < $1.start }
        // Before the first of the week the last of the week before holds.
        return (starts.last { $0.start <= now } ?? starts.last)?.rate ?? Rate()
    }

    private static func moment(_ text: Substring) -> (weekday: Int?, minute: Int)? {
        let days = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"]
        var rest = text
        var weekday: Int?
        if let dash = text.firstIndex(of: "-") {
            let name = text[..<dash].lowercased()
            guard name.count >= 3, let day = days.firstIndex(of: String(name.prefix(3))) else { return nil }
            (weekday, rest) = (day, text[text.index(after: dash)...])
        }
        let time = rest.split(separator: ":")
        guard time.count == 2, let hour = Int(time[0]), let minute = Int(time[1]), (0...23).contains(hour), (0...59).contains(minute) else {
            return nil
        }
        return (weekday, hour * 60 + minute)
    }

    private static func rate(_ text: Substring) -> Rate? {
        let parts = text.split(separator: ":", omittingEmptySubsequences: false)
        guard (1...2).contains(parts.count), let up = ByteCount.read(parts[0], unit: 1024) else { return nil }
        guard let down = parts.count == 2 ? ByteCount.read(parts[1], unit: 1024) : up else { return nil }
        return Rate(up: up == 0 ? nil : up, down: down == 0 ? nil : down)
    }
}

/// Numbers of bytes as rclone writes them: `512`, `100k`, `1.5M`, `2Gi`; binary multiples. `off` is 0.
package enum ByteCount {
    /// - Parameter unit: what a number without a suffix counts.
    package static func read(_ text: some StringProtocol, unit: Int64 = 1) -> Int64? {
        var digits = text.lowercased()
        if digits == "off" { return 0 }
        for suffix in ["ib", "b", "i"]
        where digits.hasSuffix(suffix) && digits.count > suffix.count && !(suffix == "b" && digits.dropLast().last?.isNumber == true) {
            digits.removeLast(suffix.count)
            break
        }
        var factor = unit
        if let last = digits.last, let power = ["b", "k", "m", "g", "t", "p"].firstIndex(of: String(last)) {
            digits.removeLast()
            factor = (0..<power).reduce(1) { product, _ in product * 1024 }
        }
        guard let value = Double(digits), value >= 0, value.isFinite, value * Double(factor) < 9e18 else { return nil }
        return Int64(value * Double(factor))
    }
}

/// Holds threads back so that no more goes over the line than a timetable allows. It can be changed while a run goes on.
package final class BandwidthLimit: Sendable {
    package enum Direction: Sendable { case up, down }

    private struct Bucket {
        /// When the next byte may go, in nanoseconds of the steady clock.
        var free: UInt64 = 0
    }

    private struct State {
        var timetable: BandwidthTimetable?
        var isSuspended = false
        var rate = BandwidthTimetable.Rate()
        var looked: UInt64 = 0
        var up = Bucket()
        var down = Bucket()
    }

    private let state: Mutex<State>

    package init(_ timetable: BandwidthTimetable?) { state = Mutex(State(timetable: timetable)) }

    /// Another timetable from now on.
    package func change(to timetable: BandwidthTimetable?) {
        state.withLock { state in (state.timetable, state.looked) = (timetable, 0) }
    }

    /// Switches the limit off, and on again.
    package func toggle() { state.withLock { $0.isSuspended.toggle() } }

    /// Waits until so many bytes may go. For threads that may wait.
    func take(_ count: Int, _ direction: Direction) {
        var rest = count
        while rest > 0 {
            let now = DispatchTime.now().uptimeNanoseconds
            let pause = state.withLock { state -> UInt64 in
                guard let timetable = state.timetable, !state.isSuspended else {
                    rest = 0
                    return 0
                }
                if now - state.looked > 1_000_000_000 || state.looked == 0 {
                    state.rate = BandwidthLimit.rate(timetable)
                    state.looked = now
                }
                guard let rate = direction == .up ? state.rate.up : state.rate.down else {
                    rest = 0
                    return 0
                }
                var bucket = direction == .up ? state.up : state.down
                // A line that was idle may catch up 100 ms, no more.
                bucket.free = max(bucket.free, now &- min(now, 100_000_000))
                if bucket.free > now { return min(bucket.free - now, 200_000_000) }
                let piece = min(rest, max(1, Int(rate / 10)))
                bucket.free += UInt64(Double(piece) / Double(rate) * 1e9)
                rest -= piece
                if direction == .up { state.up = bucket } else { state.down = bucket }
                return 0
            }
            if pause > 0 { usleep(useconds_t(pause / 1000 + 1)) }
        }
    }

    private static func rate(_ timetable: BandwidthTimetable) -> BandwidthTimetable.Rate {
        var (seconds, local) = (time(nil), tm())
        localtime_r(&seconds, &local)
        return timetable.rate(weekday: Int(local.tm_wday), minute: Int(local.tm_hour) * 60 + Int(local.tm_min))
    }
}
