/// Where new versions of a software appear.
package struct UpstreamSource: Codable, Sendable, Hashable {
    /// Services and formats that are understood.
    package enum Kind: String, Codable, Sendable, Hashable, CaseIterable {
        case githubRelease = "github_release"
        case githubTag = "github_tag"
        case gitlabRelease = "gitlab_release"
        case gitlabTag = "gitlab_tag"
        case gitTag = "git_tag"
        case bitbucketTag = "bitbucket_tag"
        case pypi, conda, cran, bioconductor, cpan, npm, crates, rubygems, debian, zenodo, sourceforge
        /// Any page: what the pattern finds in it.
        case http

        /// What the name of a source is, for messages.
        package var nameHint: String {
            switch self {
            case .githubRelease, .githubTag: "OWNER/REPOSITORY"
            case .gitlabRelease, .gitlabTag: "GROUP/PROJECT, or HOST/GROUP/PROJECT where it is not at gitlab.com"
            case .gitTag: "a repository's https address"
            case .bitbucketTag: "WORKSPACE/REPOSITORY"
            case .conda: "CHANNEL/PACKAGE, for example conda-forge/fsleyes"
            case .zenodo: "a record's number, of any version"
            case .http: "an https address"
            case .pypi, .cran, .bioconductor, .cpan, .npm, .crates, .rubygems, .debian, .sourceforge: "the project's name"
            }
        }
    }

    package var kind: Kind
    /// What `Kind.nameHint` says.
    package var name: String
    /// A regular expression whose first group, or whose whole match, is the version; without it what follows the first digit.
    package var pattern: String?
    /// Whether release candidates and the like count.
    package var prereleases: Bool

    package init(kind: Kind, name: String, pattern: String? = nil, prereleases: Bool = false) {
        self.kind = kind
        self.name = name
        self.pattern = pattern
        self.prereleases = prereleases
    }
}
