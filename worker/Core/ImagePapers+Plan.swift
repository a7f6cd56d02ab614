import FarmModel
import ImageAssembly

extension ImagePapers {
    /// What an image tells of the plan that it was built by: labels, the Dockerfile, and the plan itself with the digests of all inputs.
    init(_ plan: Plan) throws {
        let labels = [
            "org.sciferry.name": plan.name, "org.sciferry.version": plan.version, "org.sciferry.target": plan.target,
            "org.sciferry.base": "\(plan.base.name)@sha256:\(plan.base.digest.hex)",
        ]
        let dockerfile = plan.dockerfile.unicodeScalars.split(separator: "\n", omittingEmptySubsequences: false).map { "# \(String($0))" }
            .joined(
                separator: "\n")
        self.init(
            labels: labels,
            definition: "Bootstrap: docker\nFrom: \(plan.base.reference)\n\n# Built by Sciferry from this Dockerfile:\n\(dockerfile)\n",
            files: [
                .init(name: "Dockerfile", bytes: Array(plan.dockerfile.utf8)), .init(name: "plan.json", bytes: try plan.canonicalBytes()),
            ])
    }
}
