import CoordinatorCore
import FarmModel
import Hummingbird

extension FarmAPI {
    func addImportRoutes(to router: Router<BasicRequestContext>) {
        let coordinator = coordinator
        router.get("api/v1/imports") { request, _ in
            try await require(.reader, request)
            let query = request.uri.queryParameters
            let limit = max(1, query["limit"].flatMap { Int($0) } ?? .max)
            return try json(try await coordinator.importViews(containing: query["containing"].map(String.init) ?? "", limit: limit))
        }
        // It may name files that workers see.
        router.post("api/v1/imports") { request, _ in
            let holder = try await require(.operator, request)
            return try json(try await coordinator.addImports(try await read(request, limit: FarmAPI.submissionLimit), by: holder.name))
        }
        router.post("api/v1/imports/fetch") { request, _ in
            let holder = try await require(.maintainer, request)
            return try json(try await coordinator.fetchImport(try await read(request), by: holder.name))
        }
        router.post("api/v1/imports/fetch-all") { request, _ in
            let holder = try await require(.operator, request)
            return try json(try await coordinator.fetchImports(try await read(request), by: holder.name))
        }
    }
}
