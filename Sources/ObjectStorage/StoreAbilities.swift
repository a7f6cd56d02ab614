package import FarmModel

/// What a bucket's service does when it is tried out. Services of the same protocol differ, and some say yes to what they ignore.
package struct StoreAbilities: Codable, Sendable, Hashable {
    /// One thing that a service may do or not.
    package enum Ability: String, Codable, Sendable, Hashable, CaseIterable {
        case readsBack, listsAtOnce, ranges, batchDeletion, parts, copies, refusesDamage, refusesBroken, tagsAreMD5, namesBesideFolders,
            anyNames
        case byteOrder, createsOnly, replacesOnly, checksKeys, checksSigned

        /// What it is, and what follows where it is missing; `nil` where nothing does, as nothing of ours relies on it.
        package var meaning: (what: String, without: String?) {
            switch self {
            case .readsBack: ("what was written is read back whole, at once", "no bucket for a farm: releases could name what is not there")
            case .listsAtOnce:
                ("what was written is listed at once", "no bucket for a farm: a collection could take away what it does not see")
            case .ranges: ("parts of an object can be read", "whole packs are read where one chunk is wanted")
            case .batchDeletion: ("many objects are deleted by one request", "they are deleted one by one")
            case .parts: ("large objects are sent in parts", "an upload that breaks begins again")
            case .copies: ("objects are copied without leaving the service", "they travel through this machine")
            case .refusesDamage:
                ("bytes that are not those of the MD5 sent with them are refused", "damage on the way is noticed by tags and audits only")
            case .refusesBroken:
                ("an upload that breaks off leaves nothing, also without an MD5", nil)
            case .tagsAreMD5: ("tags are the MD5 of the content", "what tags do not tell is remembered, or read")
            case .namesBesideFolders: ("an object a may lie beside a/b", "keys of others that need it are refused by name")
            case .anyNames: ("names may have empty parts and end in a slash", "objects of others that are called so are refused by name")
            case .byteOrder: ("listings are in the order of bytes", nil)
            case .createsOnly: ("an object is written only if there is none", nil)
            case .replacesOnly: ("an object is replaced only if it is the one that is known", nil)
            case .checksKeys: ("a wrong secret is refused", "anybody who reaches the service may write")
            case .checksSigned: ("bytes that are not those that were signed are refused", nil)
            }
        }
    }

    package var triedAt: Timestamp
    /// What was found; nothing of what could not be tried.
    package var found: [Ability: Bool] = [:]
    /// It only reads.
    package var isReadOnly = false

    package init(triedAt: Timestamp) { self.triedAt = triedAt }

    /// What an operator should know: what is missing that something of ours would make use of.
    package var remarks: [String] {
        Ability.allCases.compactMap { ability in
            found[ability] == false ? ability.meaning.without.map { "not so: \(ability.meaning.what); \($0)" } : nil
        }
    }

    /// Throws `storage.unfit` for a service that a farm cannot rely on.
    package func checkFitness(_ name: String) throws {
        for ability in [Ability.readsBack, .listsAtOnce] where found[ability] == false {
            throw FarmError(
                "storage.unfit", .fault, "\(name) cannot hold a region: \(ability.meaning.what) is not true of it",
                hint: "use another service, or turn its caching of writes off")
        }
    }

    private enum CodingKeys: String, CodingKey { case triedAt, found, isReadOnly }

    package init(from decoder: any Decoder) throws {
        let values = try decoder.container(keyedBy: CodingKeys.self)
        triedAt = try values.decode(Timestamp.self, forKey: .triedAt)
        isReadOnly = try values.decode(Bool.self, forKey: .isReadOnly)
        for (name, isSo) in try values.decode([String: Bool].self, forKey: .found) {
            if let ability = Ability(rawValue: name) { found[ability] = isSo }
        }
    }

    package func encode(to encoder: any Encoder) throws {
        var values = encoder.container(keyedBy: CodingKeys.self)
        try values.encode(triedAt, forKey: .triedAt)
        try values.encode(isReadOnly, forKey: .isReadOnly)
        try values.encode(Dictionary(uniqueKeysWithValues: found.map { ($0.key.rawValue, $0.value) }), forKey: .found)
    }
}
