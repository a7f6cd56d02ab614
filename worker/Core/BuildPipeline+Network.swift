import FarmModel

/// What the steps of a build reach.
extension BuildPipeline {
    /// Runs a build on the network that its plan allows it.
    ///
    /// - Parameter body: gets what the engine's builder is told of it.
    func onNetwork<Value: Sendable>(
        of plan: Plan, _ body: @escaping @Sendable (StepNetwork) async throws -> Value
    ) async throws -> Value {
        if plan.network == .none { return try await body(StepNetwork(isNone: true)) }
        let bridge = await engine.bridge()
        let proxy = await context.proxy.address(on: bridge)
        let before = await context.proxy.use()
        let value: Value
        switch plan.network {
        case .proxy:
            guard let bridge, let proxy, bridge.name != "lo" else {
                throw AttemptFailure(
                    Failure(
                        .infrastructure, code: "network.proxy",
                        message: "the recipe's steps may reach the proxy alone, and this worker cannot see to that",
                        reason: "network.proxy",
                        retry: .elsewhere))
            }
            await log.say("steps reach nothing but the proxy, for http and https")
            value = try await context.gate.kept(to: bridge, port: proxy.port) {
                try await body(StepNetwork(variables: BuildPipeline.variables(proxy, ["http", "https", "ftp"])))
            }
        default:
            let network = StepNetwork(variables: proxy.map { BuildPipeline.variables($0, ["http"]) } ?? [])
            value = try await context.gate.open { try await body(network) }
        }
        guard proxy != nil else { return value }
        let use = await context.proxy.use().since(before)
        let others = context.configuration.slots > 1 ? " (with what other builds fetched meanwhile)" : ""
        if use.requests + use.tunnels > 0 { await log.say("the steps had \(use.sentence)\(others)") }
        return value
    }

    /// In small and in capital letters, as programs want them.
    private static func variables(_ proxy: (host: String, port: Int), _ schemes: [String]) -> [String] {
        let url = "http://\(proxy.host):\(proxy.port)"
        let variables = schemes.map { "\($0)_proxy=\(url)" } + ["no_proxy=localhost,127.0.0.1,::1"]
        return variables.flatMap { variable in
            let name = variable.prefix { $0 != "=" }
            return [variable, name.uppercased() + variable.dropFirst(name.count)]
        }
    }
}
