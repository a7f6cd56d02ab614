import Foundation

/// The dates of HTTP (RFC 9110, section 5.6.7): `Sun, 06 Nov 1994 08:49:37 GMT`.
package enum HTTPDate {
    package static func text(_ time: Timestamp) -> String {
        let formatter = DateFormatter()
        formatter.locale = Locale(identifier: "en_US_POSIX")
        formatter.timeZone = TimeZone(identifier: "GMT")
        formatter.dateFormat = "EEE, dd MMM yyyy HH:mm:ss 'GMT'"
        return formatter.string(from: Date(timeIntervalSince1970: Double(time.milliseconds / 1000)))
    }

    /// `nil` for what is no such date.
    package static func read(_ text: String) -> Timestamp? {
        let parts = text.split(separator: " ")
        let months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
        guard parts.count == 6, parts[5] == "GMT", let day = Int(parts[1]), let month = months.firstIndex(of: String(parts[2])),
            let year = Int(parts[3])
        else { return nil }
        let time = parts[4].split(separator: ":").map { Int($0) }
        guard time.count == 3, let hour = time[0], let minute = time[1], let second = time[2] else { return nil }
        return CivilTime.timestamp(year, month + 1, day, hour, minute, second, milliseconds: 0)
    }
}

/// Days and times of the Gregorian calendar in UTC, without the calendar's machinery: a listing has a million of them.
package enum CivilTime {
    /// Days from civil (H. Hinnant, "chrono-Compatible Low-Level Date Algorithms").
    static func timestamp(_ year: Int, _ month: Int, _ day: Int, _ hour: Int, _ minute: Int, _ second: Int, milliseconds: Int) -> Timestamp?
    {
        guard (1...12).contains(month), (1...31).contains(day), (0...24).contains(hour), (0...59).contains(minute),
            (0...60).contains(second),
            (0...9999).contains(year)
        else { return nil }
        let y = month <= 2 ? year - 1 : year
        let era = (y >= 0 ? y : y - 399) / 400
        let yearOfEra = y - era * 400
        let dayOfYear = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1
        let dayOfEra = yearOfEra * 365 + yearOfEra / 4 - yearOfEra / 100 + dayOfYear
        let days = era * 146_097 + dayOfEra - 719_468
        return Timestamp(
            milliseconds: (((Int64(days) * 24 + Int64(hour)) * 60 + Int64(minute)) * 60 + Int64(second)) * 1000 + Int64(milliseconds))
    }

    /// `2026-11-23T03:12:40.000Z`, in UTC.
    package static func read(_ text: some Collection<UInt8>) -> Timestamp? {
        var numbers: [Int] = []
        var current: Int?
        var digits = 0
        for byte in text {
            if (48...57).contains(byte) {
                guard digits < 9 else { return nil }
                current = (current ?? 0) * 10 + Int(byte - 48)
                digits += 1
            } else {
                if let number = current { numbers.append(number) }
                (current, digits) = (nil, 0)
            }
        }
        if let number = current { numbers.append(number) }
        guard numbers.count >= 6 else { return nil }
        return timestamp(numbers[0], numbers[1], numbers[2], numbers[3], numbers[4], numbers[5], milliseconds: 0)
    }
}
