import FarmModel

/// How work is shared out: `scheduling` in `farm.json`. Every key has a default.
package struct SchedulingRules: Codable, Sendable, Hashable {
    /// After so many hours of waiting a job goes one class of urgency up.
    package var agingHours: Double = 6
    /// What a requester is due in proportion to others, 1 unless said otherwise.
    package var shares: [String: Double] = [:]
    /// Builds of one requester, and of one recipe, that run at a time; 0 for any number.
    package var mostPerRequester = 0
    package var mostPerRecipe = 0
    /// The part of a build's expected time for which it waits for a worker that has its layers, and seconds at the most.
    package var warmShare: Double = 0.5
    package var warmSeconds: Double = 120
    /// Failures of the infrastructure in a row after which a worker gets nothing more.
    package var mostFailuresInARow = 5
    /// Seconds for which a worker may leave an assigned attempt unconfirmed.
    package var assignSeconds: Double = 30
    /// Seconds for which an attempt may stand still in its preparation.
    package var startSeconds: Double = 900
    /// Percent of strain (`Pressure`) from which a worker that has work gets no more.
    package var mostStrain: Double = 40

    package init() {}

    private enum CodingKeys: String, CodingKey, CaseIterable {
        case agingHours, shares, mostPerRequester, mostPerRecipe, warmShare, warmSeconds, mostFailuresInARow, assignSeconds, startSeconds,
            mostStrain
    }

    /// Throws `settings.key` for a key that is none, and `settings.value` for a number without sense.
    package init(from decoder: any Decoder) throws {
        try SettingsKeys.check(decoder, CodingKeys.self, under: "scheduling")
        let container = try decoder.container(keyedBy: CodingKeys.self)
        func read<Value: Decodable>(_ key: CodingKeys, _ value: inout Value) throws {
            value = try container.decodeIfPresent(Value.self, forKey: key) ?? value
        }
        try read(.agingHours, &agingHours)
        try read(.shares, &shares)
        try read(.mostPerRequester, &mostPerRequester)
        try read(.mostPerRecipe, &mostPerRecipe)
        try read(.warmShare, &warmShare)
        try read(.warmSeconds, &warmSeconds)
        try read(.mostFailuresInARow, &mostFailuresInARow)
        try read(.assignSeconds, &assignSeconds)
        try read(.startSeconds, &startSeconds)
        try read(.mostStrain, &mostStrain)
        let positive = [agingHours, assignSeconds, startSeconds, mostStrain] + shares.values
        guard positive.allSatisfy({ $0 > 0 }), mostFailuresInARow > 0, warmShare >= 0, warmSeconds >= 0 else {
            throw FarmError(
                "settings.value", .invalid, "a number under \"scheduling\" makes no sense",
                hint: "hours, seconds, shares and mostFailuresInARow are greater than 0")
        }
    }
}
