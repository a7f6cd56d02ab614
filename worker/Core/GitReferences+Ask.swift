import FarmModel
import HTTPTransport

extension GitReferences {
    /// Asks a server; `name` is the repository's address, a space, and the reference.
    static func commit(_ name: String, client: HTTPClient) async throws -> String {
        let parts = name.split(separator: " ", maxSplits: 1).map(String.init)
        guard parts.count == 2 else { throw FarmError("git.name", .fault, "\"\(name)\" is no reference") }
        var address = parts[0]
        while address.hasSuffix("/") { address.removeLast() }
        let request = HTTPRequest("GET", "\(address)/info/refs?service=git-upload-pack", followsRedirects: true)
        let response: HTTPResponse
        do { response = try await client.perform(request) } catch let error as FarmError {
            throw AttemptFailure(Failure(.infrastructure, error))
        }
        guard response.isSuccess else {
            let isTransient = RetryPolicy.isTransient(status: response.status)
            throw AttemptFailure(
                Failure(
                    isTransient ? .infrastructure : .recipe, code: "git.failed",
                    message: "\(address) answers with status \(response.status); correct x-sciferry.upstream"))
        }
        let references: GitReferences
        do { references = try GitReferences(response.body) } catch { throw AttemptFailure(Failure(.recipe, error)) }
        guard let commit = references.commit(of: parts[1]) else {
            throw AttemptFailure(
                Failure(
                    .recipe, code: "git.reference", message: "\(address) has no tag or branch \"\(parts[1])\"; correct x-sciferry.upstream")
            )
        }
        return commit
    }
}
