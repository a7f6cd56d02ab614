import CoordinatorCore
import FarmModel
import Hummingbird
import SystemIO

/// Test data, and how tests went.
extension FarmAPI {
    func addTestRoutes(to router: Router<BasicRequestContext>) {
        let coordinator = coordinator
        router.get("api/v1/tests/:name") { request, context in
            try await require(.reader, request)
            return try json(try await coordinator.testRuns(of: try context.parameters.require("name")))
        }
        router.get("api/v1/datasets") { request, _ in
            try await require(.reader, request)
            return try json(await coordinator.datasetViews())
        }
        // Answers with the files that have not come yet; when there are none, the dataset is there.
        router.post("api/v1/datasets") { request, _ in
            let holder = try await require(.maintainer, request)
            let dataset: TestDataset = try await read(request, limit: FarmAPI.submissionLimit)
            return try json(try await coordinator.add(dataset, by: holder.name))
        }
        router.put("api/v1/datasets/files/:digest/:size") { request, context in
            try await require(.maintainer, request)
            guard let digest = Digest(try context.parameters.require("digest")), let size = Int64(try context.parameters.require("size"))
            else {
                throw FarmError("dataset.file", .invalid, "a file of a dataset is sent under its digest and size")
            }
            let path = "\(coordinator.home.uploads)/\(Nonce.hex(bytes: 12))"
            do {
                try await receive(request, to: path, digest, size: size)
                try await coordinator.takeDatasetFile(path, as: digest)
            } catch {
                try? Disk.remove(path)
                throw error
            }
            return Response(status: .created)
        }
    }
}
