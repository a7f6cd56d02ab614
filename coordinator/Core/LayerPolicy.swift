import FarmModel

/// What a farm keeps of its builds' layers: `layers` in `farm.json`.
package struct LayerPolicy: Codable, Sendable, Hashable {
    /// Gigabytes that they take up at most in the first region; 0 keeps none.
    package var gigabytes: Double
    /// Seconds that a build's steps must have taken for its layers to be kept.
    package var leastSeconds: Double

    package init() { (gigabytes, leastSeconds) = (100, 20) }

    package init(from decoder: any Decoder) throws {
        let values = try decoder.container(keyedBy: CodingKeys.self)
        let usual = LayerPolicy()
        gigabytes = try values.decodeIfPresent(Double.self, forKey: .gigabytes) ?? usual.gigabytes
        leastSeconds = try values.decodeIfPresent(Double.self, forKey: .leastSeconds) ?? usual.leastSeconds
    }

    /// Throws `farm.layers`, naming `source`.
    func check(_ source: String) throws {
        guard gigabytes >= 0, gigabytes <= 1e9, leastSeconds >= 0, leastSeconds.isFinite else {
            throw FarmError(
                "farm.layers", .invalid, "\(source): \"layers\" has a number that cannot be",
                hint: "gigabytes and leastSeconds are 0 or more")
        }
    }
}
