import CoordinatorCore
import FarmModel
import Hummingbird

extension FarmAPI {
    func addNightRoutes(to router: Router<BasicRequestContext>) {
        let coordinator = coordinator
        // Asks other people's servers, so not everybody may have it made.
        router.get("api/v1/nightly/plan") { request, _ in
            try await require(.maintainer, request)
            return try json(try await coordinator.nightlyPlan(asksOutside: request.uri.queryParameters["offline"] == nil))
        }
        router.get("api/v1/nights") { request, _ in
            try await require(.reader, request)
            let limit = min(1000, max(1, request.uri.queryParameters["limit"].flatMap { Int($0) } ?? 30))
            return try json(try await coordinator.nightRecords(limit: limit))
        }
        router.post("api/v1/nights") { request, _ in
            let holder = try await require(.operator, request)
            return try json(try await coordinator.startNight(by: holder.name))
        }
        router.get("api/v1/nights/:number") { request, context in
            try await require(.reader, request)
            let text = try context.parameters.require("number")
            guard text == "latest" || Int(text) != nil else {
                throw FarmError("night.unknown", .notFound, "\"\(text)\" is no night's number", hint: "a number, or latest")
            }
            return try json(try await coordinator.nightView(Int(text)))
        }
        router.post("api/v1/nights/stop") { request, _ in
            let holder = try await require(.operator, request)
            return try json(try await coordinator.stopNight(by: holder.name))
        }
    }
}
