import FarmModel
import ObjectStorage
import Synchronization

/// Sums over a whole object, made as its bytes come by in order.
final class WholeSums: Sendable {
    struct State: Sendable {
        fileprivate(set) var got: Int64 = 0
        fileprivate var md5: MD5?
        fileprivate var digest: Digest.Hasher?
    }

    private let lock: Mutex<State>

    /// Makes those sums that are expected.
    init(md5: [UInt8]?, digest: Digest?) { lock = Mutex(State(md5: md5.map { _ in MD5() }, digest: digest.map { _ in Digest.Hasher() })) }

    /// What was summed so far: to go back to when the bytes that came after it have to come again.
    var state: State {
        get { lock.withLock { $0 } }
        set { lock.withLock { $0 = newValue } }
    }

    /// Takes bytes in; returns how many there were.
    @discardableResult func update(_ bytes: UnsafeRawBufferPointer) -> Int64 {
        lock.withLock { state in
            state.md5?.update(bytes)
            state.digest?.update(bytes)
            state.got += Int64(bytes.count)
            return state.got
        }
    }

    func finish() -> (md5: [UInt8]?, digest: Digest?) { lock.withLock { ($0.md5?.finish(), $0.digest?.finish()) } }
}
