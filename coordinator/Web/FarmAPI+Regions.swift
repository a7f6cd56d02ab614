import CoordinatorCore
import FarmModel
import Hummingbird

extension FarmAPI {
    func addRegionRoutes(to router: Router<BasicRequestContext>) {
        let coordinator = coordinator
        router.get("api/v1/regions") { request, _ in
            try await require(.reader, request)
            return try json(await coordinator.regionStatuses())
        }
        router.post("api/v1/regions/audits") { request, _ in
            let holder = try await require(.operator, request)
            try await coordinator.startAudit(try await read(request), by: holder.name)
            return try json(await coordinator.regionStatuses())
        }
    }
}
