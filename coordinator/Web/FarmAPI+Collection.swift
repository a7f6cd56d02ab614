import CoordinatorCore
import FarmModel
import Hummingbird

extension FarmAPI {
    func addCollectionRoutes(to router: Router<BasicRequestContext>) {
        let coordinator = coordinator
        router.post("api/v1/collections") { request, _ in
            let holder = try await require(.operator, request)
            let body: CollectionRequest = try await read(request)
            return try json(try await coordinator.startCollection(isDryRun: body.isDryRun, by: holder.name))
        }
        router.get("api/v1/collections/last") { request, _ in
            try await require(.reader, request)
            return try json(try await coordinator.lastCollection())
        }
    }
}
