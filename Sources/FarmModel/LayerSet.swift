/// The layers that a build's steps made, as the farm keeps them for workers that have not run these steps.
package struct LayerSet: Codable, Sendable, Hashable {
    /// One step's layer.
    package struct Layer: Codable, Sendable, Hashable {
        /// Stands for the base image and all instructions up to the one that made it.
        package var identity: UInt64
        /// SHA-256 of the layer's archive as it is unpacked: an engine's diff ID.
        package var content: Digest
        /// Bytes of that archive.
        package var size: Int64
        /// What the step took when it was run.
        package var seconds: Double
        /// The manifest of the archive's chunks, and what these take up, once the farm has them.
        package var manifest: Digest?
        package var stored: Int64?

        /// The worker that brought it, as the coordinator knows it.
        package var worker: String?
        /// The step left no layer: Docker's classic builder leaves out what would be empty. Absent for no.
        package var leftNothing: Bool?

        package var isNothing: Bool { leftNothing ?? false }

        /// A step that left no layer.
        package init(identity: UInt64, seconds: Double) {
            self.init(identity: identity, content: Digest(hashing: ""), size: 0, seconds: seconds)
            leftNothing = true
        }

        package init(identity: UInt64, content: Digest, size: Int64, seconds: Double) {
            self.identity = identity
            self.content = content
            self.size = size
            self.seconds = seconds
        }
    }

    package static let currentFormat = 1
    /// What keys of layers in the farm's first region begin with: a store of files of its own.
    package static let place = "layers/"
    package var format = currentFormat
    package var recipe: String
    package var target: String
    package var architecture: String
    /// The layers of the base image, bottom first, by content.
    package var base: [Digest]
    /// The steps' own, in order.
    package var layers: [Layer]
    /// The image's configuration as JSON, with the builder's own notes of what its layers were made from.
    package var configuration: String
    /// What made it, for no builder knows the steps of another; absent for BuildKit.
    package var builder: String?
    package var madeAt: Timestamp

    package init(
        recipe: String, target: String, architecture: String, base: [Digest], layers: [Layer], configuration: String,
        builder: String? = nil,
        madeAt: Timestamp
    ) {
        self.recipe = recipe
        self.target = target
        self.architecture = architecture
        self.base = base
        self.layers = layers
        self.configuration = configuration
        self.builder = builder
        self.madeAt = madeAt
    }

    /// Bytes that a set has at most as a document: it rides in a frame.
    package static let most = 160 << 10

    /// The set's beginning, up to so many layers.
    package func prefix(_ count: Int) -> LayerSet {
        var set = self
        set.layers = Array(layers.prefix(count))
        return set
    }

    /// The steps that left layers.
    package var solid: [Layer] { layers.filter { !$0.isNothing } }

    /// How many of the first steps are covered by so many layers.
    package func steps(withLayers count: Int) -> Int {
        var left = count
        return layers.prefix { layer in
            if layer.isNothing { return true }
            left -= 1
            return left >= 0
        }.count
    }

    /// Seconds that its steps took.
    package var seconds: Double { layers.reduce(0) { $0 + $1.seconds } }

    /// Whether its numbers can be reckoned with.
    package var isSound: Bool {
        format == LayerSet.currentFormat && !layers.isEmpty && layers.count <= BuildStep.most && base.count <= 200
            && configuration.utf8.count <= LayerSet.most && abs(max(madeAt.milliseconds, -.max)) < 1 << 52
            && layers.allSatisfy { (0...1 << 46).contains($0.size) && $0.seconds.isFinite && (0...1e8).contains($0.seconds) }
    }
}

/// What the farm can spare a build.
package struct LayerOffer: Codable, Sendable, Hashable {
    /// What each of the build's steps of its last stage that makes a layer stands for, in order.
    package var steps: [UInt64]
    /// What its base and each of its instructions stand for, those of earlier stages and those that make no layers too.
    package var instructions: [UInt64]?
    /// The longest beginning of these steps that the farm has; `nil` for none.
    package var set: LayerSet?
    /// Of the layers that were asked about, those that the farm lacks.
    package var missing: [Digest]
    /// Seconds that steps must have taken together for their layers to be kept; `nil` where the farm keeps none of this build.
    package var leastSeconds: Double?

    package init(steps: [UInt64], instructions: [UInt64]? = nil, set: LayerSet?, missing: [Digest] = [], leastSeconds: Double?) {
        self.steps = steps
        self.instructions = instructions
        self.set = set
        self.missing = missing
        self.leastSeconds = leastSeconds
    }
}
