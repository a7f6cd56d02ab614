package import FarmModel
package import HTTPTransport

extension GitReferences {
    /// The commit of a tag or branch now.
    ///
    /// - Parameter name: the repository's address, a space, and the reference.
    /// - Throws: `git.unreachable`, `git.failed` for a server that refuses, `git.answer`, `git.reference` for a repository without it.
    package static func commit(_ name: String, client: HTTPClient) async throws -> String {
        let parts = name.split(separator: " ", maxSplits: 1).map(String.init)
        guard parts.count == 2 else { throw FarmError("git.name", .fault, "\"\(name)\" is no reference") }
        var address = parts[0]
        while address.hasSuffix("/") { address.removeLast() }
        var request = HTTPRequest("GET", "\(address)/info/refs?service=git-upload-pack", followsRedirects: true)
        request.deadlineSeconds = 120
        let response: HTTPResponse
        do { response = try await client.perform(request) } catch let error as FarmError {
            throw FarmError("git.unreachable", .unavailable, "\(address) cannot be asked: \(error.message)", cause: error)
        }
        guard response.isSuccess else {
            throw FarmError(
                "git.failed", RetryPolicy.isTransient(status: response.status) ? .unavailable : .invalid,
                "\(address) answers with status \(response.status)", hint: "correct x-sciferry.upstream")
        }
        guard let commit = try GitReferences(response.body).commit(of: parts[1]) else {
            throw FarmError(
                "git.reference", .invalid, "\(address) has no tag or branch \"\(parts[1])\"", hint: "correct x-sciferry.upstream")
        }
        return commit
    }
}
