/// What is said of an image, in the form of in-toto's attestations (in-toto/attestation, "Statement", version 1).
package struct Statement<Predicate: Codable & Sendable & Hashable>: Codable, Sendable, Hashable {
    /// What it is about.
    package struct Subject: Codable, Sendable, Hashable {
        package var name: String
        /// Hexadecimal digests by algorithm.
        package var digest: [String: String]

        package init(name: String, digest: [String: String]) {
            self.name = name
            self.digest = digest
        }
    }

    package var type: String
    package var subject: [Subject]
    package var predicateType: String
    package var predicate: Predicate

    private enum CodingKeys: String, CodingKey {
        case type = "_type"
        case subject, predicateType, predicate
    }

    /// - Parameter image: SHA-256 of the SIF.
    package init(about name: String, image: Digest, predicateType: String, predicate: Predicate) {
        type = "https://in-toto.io/Statement/v1"
        subject = [Subject(name: name, digest: ["sha256": image.hex])]
        self.predicateType = predicateType
        self.predicate = predicate
    }
}

/// The kinds of statements that the farm makes.
package enum PredicateType {
    package static let instructions = "https://sciferry.org/attestations/instructions/v1"
    /// in-toto/attestation, "Test Result", version 0.1.
    package static let tests = "https://in-toto.io/attestation/test-result/v0.1"
}
