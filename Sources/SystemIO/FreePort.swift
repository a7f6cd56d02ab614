import FarmModel
import Glibc

/// Ports of this machine that nobody uses now.
package enum FreePort {
    /// Asks the system for one of an IPv4 address of the machine's own; throws `port.none`.
    package static func find(on host: String = "127.0.0.1") throws -> Int {
        let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        defer { close(descriptor) }
        var name = try address(host, 0)
        var length = socklen_t(MemoryLayout<sockaddr_in>.size)
        let isBound = withUnsafeMutablePointer(to: &name) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { name in
                bind(descriptor, name, length) == 0 && getsockname(descriptor, name, &length) == 0
            }
        }
        guard isBound else { throw FarmError("port.none", .unavailable, "the system gives no free port of \(host)") }
        return Int(UInt16(bigEndian: name.sin_port))
    }

    /// Whether something takes connections there. Only for addresses of the machine's own, which answer at once.
    package static func answers(_ host: String, _ port: Int) -> Bool {
        let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        defer { close(descriptor) }
        guard var name = try? address(host, port) else { return false }
        return withUnsafeMutablePointer(to: &name) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size)) == 0
            }
        }
    }

    private static func address(_ host: String, _ port: Int) throws -> sockaddr_in {
        var name = sockaddr_in()
        name.sin_family = sa_family_t(AF_INET)
        name.sin_port = in_port_t(truncatingIfNeeded: port).bigEndian
        guard inet_pton(AF_INET, host, &name.sin_addr) == 1 else {
            throw FarmError("port.address", .invalid, "\"\(host)\" is no IPv4 address")
        }
        return name
    }
}
